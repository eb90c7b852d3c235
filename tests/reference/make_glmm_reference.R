# Writes models/*/reference.json of the generalized linear mixed models: what lme4, glmmTMB and MASS give at full precision.
#
#     Rscript tests/reference/make_glmm_reference.R [NAME ...]          from the root of the repository
#
# Needs lme4, glmmTMB, MASS, nlme, geepack, numDeriv and jsonlite, and for ctsib the data in ../shared/data. Observed curvature is
# glmmTMB's (its gradients are exact), expected curvature and quadrature are lme4's; both are polished by Newton steps. lme4's
# penalised least squares stop at tolPwrss, here 1e-13 instead of 1e-7. Penalised quasi-likelihood is MASS's glmmPQL.

invisible(Sys.setlocale("LC_COLLATE", "C")) # levels in the order of their characters, as the package sorts
source("tests/reference/make_reference.R")
suppressPackageStartupMessages({
  library(MASS)
  library(glmmTMB)
})

reasons <- c(reasons,
  otherprogram = "lme4's or TMB's inner optimum", differences = "our Hessian is one of forward differences", mass = "lme's inner optimum",
  geepack = "geepack and statsmodels at the same working correlation, each at its own tolerance",
  modesof = "1e-5 of the largest sd", boundary = "0, which TMB's log sd does not reach"
)

tmb <- function(variant, formula, family, zero = ~0, dispersion = ~1) {
  list(variant = variant, method = "Laplace", program = "glmmTMB", formula = formula, family = family, zero = zero, dispersion = dispersion)
}
expected <- function(variant, formula, family) {
  list(variant = variant, method = "Laplace", options = list(information = "expected"), program = "lme4", formula = formula, family = family)
}
aghq <- function(variant, formula, family, nodes) {
  list(variant = variant, method = "AGHQ", options = list(nodes = nodes), program = "lme4", formula = formula, family = family)
}
pql <- function(variant, formula, random, family) {
  mass <- list(variant = variant, method = "PQL", program = "MASS", formula = formula, random = random, family = family)
  list(mass, c(mass, list(options = list(tolerance = 1e-20))))
}
autoregressive <- function(variant, formula) list(variant = variant, method = "classical", program = "geepack", formula = formula)

herds <- cbind(incidence, size - incidence) ~ period + (1 | herd)
women <- use ~ age + I(age^2) + urban + livch + (1 | district)
people <- y ~ lbase * trt + lage + V4 + (1 | subject)
children <- y ~ trt + I(week > 2) + (1 | ID)
sway <- stable ~ Sex + Age + Height + Weight + Surface + Vision + (1 | Subject)
animals <- count ~ spp + mined + (1 | site)
seasons <- cbind(carriers, flies - carriers) ~ season + (1 | population)
glmms <- list(
  cbpp = list(
    factors = c("herd", "period"), coded = "period",
    analyses = c(
      list(tmb("main", herds, binomial()), expected("main", herds, binomial()), aghq("main", herds, binomial(), 9), aghq("main", herds, binomial(), 25)),
      pql("main", cbind(incidence, size - incidence) ~ period, ~ 1 | herd, binomial()),
      list(
        tmb("probit", herds, binomial("probit")), expected("probit", herds, binomial("probit")), aghq("probit", herds, binomial("probit"), 25),
        tmb("cloglog", herds, binomial("cloglog")), expected("cloglog", herds, binomial("cloglog")),
        aghq("cloglog", herds, binomial("cloglog"), 25), tmb("betabinomial", herds, betabinomial())
      )
    )
  ),
  contraception = list(
    brief = TRUE, factors = c("district", "use", "urban", "livch"), coded = c("urban", "livch"), names = c("I(age^2)" = "I(age ** 2)"),
    analyses = c(
      list(
        tmb("main", women, binomial()), aghq("main", women, binomial(), 9),
        tmb("slope", use ~ age + I(age^2) + urban + livch + (urban | district), binomial())
      ),
      pql("main", use ~ age + I(age^2) + urban + livch, ~ 1 | district, binomial())
    )
  ),
  salamanders = list(
    brief = TRUE, factors = c("site"), levels = list(mined = c("yes", "no"), spp = c("GP", "PR", "DM", "EC-A", "EC-L", "DES-L", "DF")),
    coded = c("spp", "mined"),
    analyses = list(
      tmb("main", count ~ spp * mined + (1 | site), nbinom2()), tmb("poisson", count ~ spp * mined + (1 | site), poisson()),
      tmb("additive", animals, nbinom2()), tmb("linear", animals, nbinom1()),
      tmb("inflated_poisson", animals, poisson(), ~mined), tmb("inflated", animals, nbinom2(), ~mined),
      tmb("inflated_linear", animals, nbinom1(), ~1), tmb("hurdle", animals, truncated_nbinom2(), ~ spp + mined),
      tmb("hurdle_poisson", animals, truncated_poisson(), ~ spp + mined), tmb("dispersion", animals, nbinom2(), dispersion = ~DOY)
    )
  ),
  seasonal = list(
    factors = "population", levels = list(season = c("spring", "autumn")), coded = "season",
    analyses = list(
      tmb("main", seasons, binomial()), aghq("main", seasons, binomial(), 25), autoregressive("gee", I(carriers / flies) ~ season),
      autoregressive("gee_population", I(carriers / flies) ~ season + population)
    )
  ),
  epil = list(
    brief = TRUE, factors = c("subject", "row"), levels = list(trt = c("placebo", "progabide")), coded = "trt",
    analyses = c(
      list(
        tmb("main", people, poisson()), aghq("main", people, poisson(), 15),
        tmb("observation", y ~ lbase * trt + lage + V4 + (1 | subject) + (1 | row), poisson()),
        tmb("quadratic", people, nbinom2()), tmb("linear", people, nbinom1()),
        tmb("sqrt", people, poisson("sqrt")), expected("sqrt", people, poisson("sqrt"))
      ),
      pql("main", y ~ lbase * trt + lage + V4, ~ 1 | subject, poisson())
    )
  ),
  grouseticks = list(
    brief = TRUE, factors = c("INDEX", "BROOD", "LOCATION", "YEAR"), coded = "YEAR",
    analyses = list(
      tmb("main", TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION), poisson()),
      tmb("negative_binomial", TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION), nbinom2())
    )
  ),
  bacteria = list(
    factors = c("ID", "y"), levels = list(trt = c("placebo", "drug", "drug+")), coded = "trt", names = c("I(week > 2)TRUE" = "I(week > 2)"),
    analyses = c(
      list(tmb("main", children, binomial()), aghq("main", children, binomial(), 15)),
      pql("main", y ~ trt + I(week > 2), ~ 1 | ID, binomial())
    )
  ),
  verbagg = list(
    brief = TRUE, factors = c("id", "item", "r2", "btype", "Gender", "situ"), coded = c("Gender", "btype", "situ"),
    analyses = list(
      tmb("main", r2 ~ (Anger + Gender + btype + situ)^2 + (1 | id) + (1 | item), binomial()),
      tmb("rasch", r2 ~ 1 + (1 | id) + (1 | item), binomial())
    )
  ),
  ctsib = list(
    brief = TRUE, factors = c("Subject", "Sex", "Surface", "Vision"), coded = c("Sex", "Surface", "Vision"),
    analyses = c(
      pql("main", stable ~ Sex + Age + Height + Weight + Surface + Vision, ~ 1 | Subject, binomial()),
      list(tmb("main", sway, binomial()), aghq("main", sway, binomial(), 25))
    )
  )
)

# par - H^{-1} g until nothing moves.
newton <- function(par, gradient, curvature, steps = 4) {
  for (step in seq_len(steps)) par <- par - solve(curvature(par), gradient(par))
  par
}

found_by <- list(
  glmmTMB = function(case, data) {
    data$.weights <- if (is.null(case$weights)) 1 else case$weights
    zero <- if (is.null(case$zero)) ~0 else case$zero
    spread <- if (is.null(case$dispersion)) ~1 else case$dispersion
    fit <- suppressWarnings(glmmTMB(case$formula, data, family = case$family, weights = .weights, ziformula = zero, dispformula = spread))
    objective <- fit$obj
    TMB::newtonOption(objective, tol = 1e-10)
    gradient <- function(par) drop(objective$gr(par))
    curvature <- function(par) { H <- jacobian(gradient, par); (H + t(H)) / 2 }
    par <- newton(fit$fit$par, gradient, curvature)
    covariance <- solve(curvature(par))
    value <- objective$fn(par)
    fit$fit$par <- par
    fit$fit$parfull <- objective$env$last.par
    own <- names(par) == "beta"
    components <- VarCorr(fit)$cond
    modes <- ranef(fit)$cond
    modes <- modes[names(components)]
    further <- list()
    for (part in c("zi", "disp")) {
      own_part <- names(par) == c(zi = "betazi", disp = "betad")[[part]]
      if (part == "disp" && !length(all.vars(spread)) || !any(own_part)) next
      label <- c(zi = "zero", disp = "log_dispersion")[[part]]
      further[[label]] <- setNames(par[own_part], names(fixef(fit)[[part]]))
      further[[paste0(label, "_se")]] <- setNames(sqrt(diag(covariance))[own_part], names(fixef(fit)[[part]]))
    }
    list(
      loglik = -value, df = length(par), beta = setNames(par[own], names(fixef(fit)$cond)), covariance = covariance[own, own, drop = FALSE],
      components = components, modes = modes, fitted = as.numeric(predict(fit, type = "response", newparams = NULL)),
      further = further,
      dispersion = if (length(all.vars(spread)) || case$family$family %in% c("binomial", "poisson", "truncated_poisson")) NULL else if (case$family$family == "Gamma") sigma(fit)^-2 else sigma(fit)
    )
  },
  lme4 = function(case, data) {
    control <- glmerControl(tolPwrss = 1e-13)
    parts <- glFormula(case$formula, data, family = case$family, control = control)
    first <- do.call(mkGlmerDevfun, c(parts, list(control = control)))
    optimizeGlmer(first)
    nodes <- if (is.null(case$options$nodes)) 1L else as.integer(case$options$nodes)
    criterion <- updateGlmerDevfun(first, parts$reTrms, nAGQ = nodes)
    rough <- optimizeGlmer(criterion, stage = 2)
    par <- newton(rough$par, function(par) grad(criterion, par), function(par) hessian(criterion, par), 3)
    covariance <- 2 * solve(hessian(criterion, par))
    value <- criterion(par)
    fit <- mkMerMod(environment(criterion), list(par = par, fval = value, conv = 0L, message = ""), parts$reTrms, fr = parts$fr)
    own <- seq(length(getME(fit, "theta")) + 1, length(par))
    list(
      loglik = -value / 2 + if (nodes > 1) saturated(fit, case$family) else 0, df = length(par), beta = fixef(fit),
      covariance = covariance[own, own, drop = FALSE], components = VarCorr(fit), modes = ranef(fit, condVar = TRUE), fitted = as.numeric(fitted(fit)),
      conditional = nodes == 1 || case$family$link == "logit" # lme4 has the expected curvature in them
    )
  },
  MASS = function(case, data) {
    own <- function(tolerance) eval(parse(text = gsub("1e-06", tolerance, deparse(glmmPQL), fixed = TRUE)), environment(glmmPQL))
    tight <- !is.null(case$options$tolerance)
    control <- nlme::lmeControl(tolerance = 1e-10, msTol = 1e-12, maxIter = 500, msMaxIter = 500, niterEM = 100)
    fit <- (if (tight) own("1e-20") else glmmPQL)(
      case$formula, random = case$random, family = case$family, data = data, verbose = FALSE, niter = 200, control = control
    )
    group <- all.vars(case$random)
    sd <- sqrt(diag(as.matrix(fit$modelStruct$reStruct[[1]]))) * fit$sigma
    list(
      beta = nlme::fixef(fit), covariance = vcov(fit), table = summary(fit)$tTable, sigma = fit$sigma,
      components = setNames(list(structure(list(), stddev = sd)), group), modes = setNames(list(nlme::ranef(fit)), group)
    )
  }
)

# Log-likelihood of the saturated model, which lme4 leaves out when nAGQ > 1.
saturated <- function(fit, family) {
  y <- model.response(model.frame(fit))
  if (family$family == "poisson") return(sum(dpois(y, y, log = TRUE)))
  if (!is.matrix(y)) return(0)
  sum(dbinom(y[, 1], rowSums(y), y[, 1] / rowSums(y), log = TRUE))
}

spread_entries <- function(found, spec, mass) {
  out <- list()
  for (name in names(found$components)) {
    group <- plain(name)
    component <- found$components[[name]]
    sd <- attr(component, "stddev")
    modes <- found$modes[[name]]
    effects <- public(names(modes), spec)
    if (max(sd) < 1e-4) {
      out <- c(out, list(entry(paste0("sd_", group), labelled(sd, effects), "boundary", abs = 1e-4)))
      next
    }
    out <- c(out, list(entry(paste0("sd_", group), labelled(sd, effects), if (mass) "mass" else "otherprogram", abs = 1e-5 * min(sd))))
    if (length(sd) > 1) {
      out <- c(out, list(entry(paste0("corr_", group), pairs_of(attr(component, "correlation"), effects), "corr", abs = 1e-5)))
    }
    if (nrow(modes) > 70) next
    for (j in seq_along(effects)) {
      out <- c(out, list(entry(sprintf("ranef_%s[%s]", group, effects[j]), labelled(modes[[j]], rownames(modes)), "modesof", abs = 1e-5 * max(sd))))
      if (isTRUE(found$conditional) && length(effects) == 1) {
        variance <- attr(modes, "postVar")[1, 1, ]
        out <- c(out, list(entry(sprintf("ranef_var_%s[%s]", group, effects[j]), labelled(variance, rownames(modes)), "otherprogram", abs = 2e-5 * max(variance))))
      }
    }
  }
  out
}

likelihood_entries <- function(found, n) {
  value <- found$loglik
  list(
    entry("loglik", value, "criterion", abs = 1e-7), entry("deviance", -2 * value, "criterion", abs = 2e-7),
    entry("aic", 2 * found$df - 2 * value, "criterion", abs = 2e-7), entry("bic", log(n) * found$df - 2 * value, "criterion", abs = 2e-7),
    entry("df", found$df, "exact", abs = 0), entry("nobs", n, "exact", abs = 0)
  )
}

lme_entries <- function(found, spec) {
  labels <- public(rownames(found$table), spec)
  column <- function(name) labelled(found$table[, name], labels)
  list(
    entry("sigma", found$sigma, "mass", rel = 1e-5),
    entry("lme_se", column("Std.Error"), "mass", rel = 1e-5), entry("containment_df", column("DF"), "exact", abs = 0),
    entry("lme_t", column("t-value"), "mass", rel = 1e-4), entry("lme_p", column("p-value"), "mass", rel = 1e-3)
  )
}

gee_entries <- function(case, spec, data) {
  fit <- geepack::geeglm(
    case$formula, id = population, waves = sample, data = data, family = binomial, weights = flies, corstr = "ar1",
    control = geepack::geese.control(epsilon = 1e-12, maxit = 200)
  )
  table <- summary(fit)$coefficients[1:2, ]
  labels <- public(rownames(table), spec)
  list(
    entry("fixef", labelled(table$Estimate, labels), "geepack", abs = 1e-7), entry("se", labelled(table$Std.err, labels), "geepack", rel = 1e-6),
    entry("correlation", summary(fit)$corr$Estimate, "geepack", abs = 1e-12)
  )
}

glmm_entries <- function(case, spec, data) {
  if (case$program == "geepack") return(gee_entries(case, spec, data))
  found <- found_by[[case$program]](case, data)
  mass <- case$program == "MASS"
  se <- sqrt(diag(found$covariance))
  labels <- public(names(found$beta), spec)
  c(
    if (!mass) likelihood_entries(found, nrow(data)),
    list(
      if (mass) entry("fixef", labelled(found$beta, labels), "mass", abs = 2e-6 * max(abs(found$beta)))
      else entry("fixef", labelled(found$beta, labels), "otherprogram", abs = 1e-5 * min(se)),
      if (mass) entry("se", labelled(se, labels), "mass", rel = 1e-5) else entry("se", labelled(se, labels), "differences", rel = 1e-4)
    ),
    lapply(names(found$further), function(name) {
      values <- found$further[[name]]
      spread <- if (endsWith(name, "_se")) values else found$further[[paste0(name, "_se")]]
      value <- labelled(values, public(names(values), spec))
      if (endsWith(name, "_se")) entry(name, value, "differences", rel = 1e-4) else entry(name, value, "otherprogram", abs = 1e-5 * min(spread))
    }),
    if (!is.null(found$dispersion)) list(entry("dispersion", found$dispersion, "otherprogram", rel = 1e-5)),
    spread_entries(found, spec, mass), if (mass) lme_entries(found, spec),
    if (!mass && !isTRUE(spec$brief)) list(entry("fitted", found$fitted, "otherprogram", abs = 1e-5))
  )
}

write_glmm_reference <- function(name, spec) {
  data <- read_data(name, spec)
  items <- list()
  for (case in spec$analyses) {
    rows <- printed[printed$model == name & printed$variant == case$variant & printed$method == case$method & is.null(case$options), ]
    head <- c(list(variant = case$variant, method = case$method), if (!is.null(case$options)) list(options = case$options))
    found <- glmm_entries(case, spec, data)
    if (length(absent <- setdiff(rows$quantity, sapply(found, `[[`, "quantity")))) stop(name, ": printed but not computed: ", toString(absent))
    items <- c(items, lapply(found, function(item) c(head, attach_printed(item, rows))))
    cat(name, case$variant, case$method, unlist(case$options), "\n")
  }
  versions <- paste(c("lme4", "glmmTMB", "MASS"), sapply(c("lme4", "glmmTMB", "MASS"), function(p) packageDescription(p)$Version), collapse = ", ")
  head <- sprintf('{"model": "%s",\n "source": "%s, R %s (tests/reference/make_glmm_reference.R)",\n "entries": [', name, versions, getRversion())
  lines <- vapply(items, as_line, "")
  writeLines(c(head, paste0("  ", lines, c(rep(",", length(lines) - 1), "")), "]}"), file.path("models", name, "reference.json"))
}

if (sys.nframe() == 0L) {
  chosen <- commandArgs(trailingOnly = TRUE)
  for (name in if (length(chosen)) chosen else names(glmms)) write_glmm_reference(name, glmms[[name]])
}
