# Writes models/*/reference.json: what lme4 (or lm) gives for every model of the catalogue, at full precision,
# with the numbers that the lectures print (printed.csv) beside the values they round.
#
#     Rscript tests/reference/make_reference.R          from the root of the repository
#
# Needs lme4, nlme, numDeriv and jsonlite, and for planks the data in ../shared/data. Each criterion is minimised by bobyqa and polished by Newton steps, so that the
# optimum is exact to rounding and no optimiser's stopping rule is part of the reference.

suppressPackageStartupMessages({
  library(lme4)
  library(numDeriv)
  library(jsonlite)
})

both <- c("REML", "ML")
models <- list(
  sleepstudy = list(
    factors = c("Subject"),
    variants = list(
      main = Reaction ~ Days + (Days | Subject),
      intercepts = Reaction ~ Days + (1 | Subject),
      uncorrelated = Reaction ~ Days + (1 | Subject) + (0 + Days | Subject),
      tens = Reaction ~ Days + (1 | Subject) + (0 + I(Days / 10) | Subject)
    )
  ),
  wool = list(factors = c("bale"), variants = list(main = y ~ 1 + (1 | bale))),
  tablets = list(
    factors = c("tablet"), levels = list(method = c("nir", "hplc")), names = c(methodhplc = "method[hplc]"),
    variants = list(main = y ~ method + (1 | tablet))
  ),
  tablets_missing = list(
    factors = c("tablet"), levels = list(method = c("nir", "hplc")), names = c(methodhplc = "method[hplc]"),
    variants = list(main = y ~ method + (1 | tablet))
  ),
  penicillin_blocks = list(
    factors = c("treat", "blend"),
    names = c(
      treat1 = "treat[A]", treat2 = "treat[B]", treat3 = "treat[C]",
      treatB = "treat[B]", treatC = "treat[C]", treatD = "treat[D]",
      blend1 = "blend[Blend1]", blend2 = "blend[Blend2]", blend3 = "blend[Blend3]", blend4 = "blend[Blend4]"
    ),
    contrasts = list(
      main = list(treat = "contr.sum"), fixed = list(treat = "contr.sum", blend = "contr.sum"),
      treatment = list(treat = "contr.treatment")
    ),
    variants = list(
      main = yield ~ treat + (1 | blend), null = yield ~ 1 + (1 | blend), fixed = yield ~ treat + blend,
      treatment = yield ~ treat + (1 | blend)
    )
  ),
  dyestuff = list(factors = c("Batch"), variants = list(main = Yield ~ 1 + (1 | Batch))),
  dyestuff2 = list(factors = c("Batch"), variants = list(main = Yield ~ 1 + (1 | Batch))),
  penicillin = list(
    factors = c("plate", "sample"), variants = list(main = diameter ~ 1 + (1 | plate) + (1 | sample))
  ),
  pastes = list(
    factors = c("batch", "cask", "sample"),
    variants = list(
      main = strength ~ 1 + (1 | batch / cask), labelled = strength ~ 1 + (1 | sample) + (1 | batch)
    )
  ),
  oats = list(
    factors = c("block", "variety", "mainplot", "nitrogen"), coded = c("variety", "nitrogen"),
    variants = list(
      main = yield ~ variety * nitrogen + (1 | block), nested = yield ~ variety * nitrogen + (1 | block / mainplot)
    )
  ),
  planks = list(
    brief = TRUE, factors = c("plank", "width", "depth"), coded = c("width", "depth"),
    variants = list(
      main = humidity ~ width + depth + (1 | plank),
      interactions = humidity ~ width * depth + (1 | plank) + (1 | plank:width) + (1 | plank:depth)
    )
  ),
  toy_blocks = list(
    factors = c("treat", "block"), coded = c("treat", "block"),
    variants = list(main = y ~ treat + (1 | block), fixed = y ~ treat + block)
  ),
  shrinkage_simulation = list(
    factors = c("individual"), coded = c("individual"), contrasts = list(fixed = list(individual = "contr.sum")),
    names = setNames(sprintf("individual[%d]", 1:9), paste0("individual", 1:9)),
    variants = list(main = y ~ 1 + (1 | individual), fixed = y ~ individual)
  ),
  schools = list(
    brief = TRUE, factors = c("district", "school", "class"),
    variants = list(
      main = reading ~ 1 + (1 | district / school / class), income = mathematics ~ income + (income | district:school)
    )
  ),
  patents = list(
    brief = TRUE, factors = c("applicant", "examiner", "technology"),
    variants = list(
      main = share ~ 1 + (1 | applicant) + (1 | examiner) + (1 | technology),
      reversed = share ~ 1 + (1 | technology) + (1 | examiner) + (1 | applicant)
    )
  )
)

printed <- read.csv("tests/reference/printed.csv", colClasses = "character", comment.char = "#")

read_data <- function(name, spec) {
  places <- c(file.path("models", name, "data.csv"), file.path("..", "shared", "data", paste0(name, ".csv")))
  data <- read.csv(places[file.exists(places)][1])
  for (column in spec$factors) data[[column]] <- factor(data[[column]])
  for (column in names(spec$levels)) data[[column]] <- factor(data[[column]], levels = spec$levels[[column]])
  data
}

# Newton steps in the variances that are not zero; `lower` is 0 for a diagonal entry of a factor.
polish <- function(criterion, theta, lower) {
  free <- theta > 1e-4 | lower < 0
  theta[!free] <- 0
  if (!any(free)) return(theta)
  part <- function(free_theta) criterion(replace(theta, free, free_theta))
  for (step in 1:4) {
    theta[free] <- theta[free] - solve(hessian(part, theta[free]), grad(part, theta[free]))
  }
  theta
}

fit_lmer <- function(formula, data, method, contrasts) {
  parts <- lFormula(formula, data, REML = method == "REML", contrasts = contrasts)
  criterion <- do.call(mkLmerDevfun, parts)
  theta <- polish(criterion, bobyqa_theta(criterion), environment(criterion)$lower)
  value <- criterion(theta)
  optimum <- list(par = theta, fval = value, conv = 0L, message = "bobyqa, then Newton")
  mkMerMod(environment(criterion), optimum, parts$reTrms, fr = parts$fr)
}

bobyqa_theta <- function(criterion) {
  control <- list(rhobeg = 0.2, rhoend = 1e-9)
  optimizeLmer(criterion, optimizer = "bobyqa", control = control, restart_edge = TRUE)$par
}

criterion_of <- function(formula, data, method, contrasts) {
  do.call(mkLmerDevfun, lFormula(formula, data, REML = method == "REML", contrasts = contrasts))
}

public <- function(names, spec) {
  names <- sub("(Intercept)", "Intercept", names, fixed = TRUE)
  known <- names %in% names(spec$names)
  names[known] <- spec$names[names[known]]
  for (column in spec$coded) {
    names <- gsub(sprintf("(^|:)%s([^:\\[]+)", column), sprintf("\\1%s[\\2]", column), names, perl = TRUE)
  }
  unname(sub("I(Days/10)", "I(Days / 10)", names, fixed = TRUE))
}

# lme4 writes class:(school:district); the package leaves the brackets out.
plain <- function(group) gsub("[()]", "", group)

labelled <- function(values, labels) setNames(as.list(as.numeric(values)), labels)

pairs_of <- function(matrix, labels) {
  k <- length(labels)
  if (k < 2) return(list())
  index <- do.call(rbind, lapply(seq_len(k - 1), function(i) cbind(i, seq(i + 1, k))))
  labelled(matrix[index], paste(labels[index[, 1]], labels[index[, 2]], sep = ", "))
}

# Why each tolerance is what it is. All are a hundredth of what another program is asked to agree to (log-likelihood 1e-6,
# coefficients 1e-4 standard errors, sd 1e-4): the reference is polished, and an optimiser on gradients gets this far.
reasons <- c(
  criterion = "criterion at its optimum", exact = "exact", se = "1e-6 standard error", sd = "1e-6 relative",
  variance = "twice the sd's relative tolerance", corr = "1e-5 absolute", modes = "1e-6 of the largest sd",
  residual = "1e-6 sigma", elsewhere = "not stationary in theta here, so first order in theta's error",
  fixed = "the criterion at a given theta, no optimiser", closed = "closed form",
  bootstrap = "four simulation standard errors of 1000 draws; the value is from 400,000", rounding = "rounding"
)

entry <- function(quantity, value, reason, abs = NULL, rel = NULL, ...) {
  tolerance <- if (is.null(rel)) list(abs = signif(abs, 2)) else list(rel = rel)
  list(quantity = quantity, value = value, tolerance = c(tolerance, list(reason = reasons[[reason]])), ...)
}

fixed_entries <- function(beta, covariance, spec) {
  se <- sqrt(diag(covariance))
  labels <- public(names(beta), spec)
  out <- list(
    entry("fixef", labelled(beta, labels), "se", abs = 1e-6 * min(se)),
    entry("se", labelled(se, labels), "sd", rel = 1e-6),
    entry("t", labelled(beta / se, labels), "se", abs = 1e-6 * (1 + max(abs(beta / se))))
  )
  if (length(beta) > 1) {
    out <- c(out, list(entry("fixef_corr", pairs_of(cov2cor(covariance), labels), "corr", abs = 1e-5)))
  }
  out
}

criteria_entries <- function(loglik, df, n) {
  list(
    entry("loglik", loglik, "criterion", abs = 1e-8), entry("deviance", -2 * loglik, "criterion", abs = 2e-8),
    entry("aic", 2 * df - 2 * loglik, "criterion", abs = 2e-8),
    entry("bic", log(n) * df - 2 * loglik, "criterion", abs = 2e-8),
    entry("df", df, "exact", abs = 0), entry("nobs", n, "exact", abs = 0)
  )
}

# Terms on one group are one group; within a group the effects stand in the formula's order.
merged <- function(fit) {
  components <- VarCorr(fit)
  base <- sub("\\.[0-9]+$", "", names(components))
  lapply(split(seq_along(base), factor(base, unique(base))), function(terms) components[terms])
}

group_entries <- function(fit, name, components, spec) {
  group <- plain(name)
  sd <- unlist(lapply(unname(components), attr, "stddev"))
  effects <- public(names(sd), spec)
  modes <- ranef(fit, condVar = TRUE)[[name]]
  variance <- attr(modes, "postVar")
  scale <- max(sd, 0.05 * sigma(fit))
  zero <- all(sd == 0)
  small <- function(reason) if (zero) "exact" else reason
  out <- list(
    entry(paste0("sd_", group), labelled(sd, effects), small("sd"), abs = if (zero) 0 else 1e-6 * min(sd)),
    entry(paste0("var_", group), labelled(sd^2, effects), small("variance"), abs = if (zero) 0 else 2e-6 * min(sd)^2)
  )
  if (length(components) == 1 && length(sd) > 1) {
    correlation <- attr(components[[1]], "correlation")
    out <- c(out, list(entry(paste0("corr_", group), pairs_of(correlation, effects), "corr", abs = 1e-5)))
  }
  names(modes) <- public(names(modes), spec)
  for (j in seq_along(effects)) {
    effect <- effects[j]
    blocks <- if (is.list(variance)) variance[[j]][1, 1, ] else variance[j, j, ]
    out <- c(out, list(
      entry(sprintf("ranef_%s[%s]", group, effect), labelled(modes[[effect]], rownames(modes)),
            small("modes"), abs = if (zero) 0 else 1e-6 * scale)
    ))
    if (!isTRUE(spec$brief)) out <- c(out, list(
      entry(sprintf("ranef_var_%s[%s]", group, effect), labelled(blocks, rownames(modes)),
            small("variance"), abs = if (zero) 0 else 2e-6 * max(blocks))
    ))
  }
  out
}

deviance_at <- function(formula, data, method, contrasts, theta, brief) {
  points <- unique(list(0 * theta, round(theta, 1), theta * 0 + c(0.5, 0.1, 2)[seq_along(theta)], theta * 7))
  if (brief) points <- list(c(0.5, 0.1, 2)[seq_along(theta)])
  criterion <- criterion_of(formula, data, method, contrasts)
  lapply(points, function(point) entry("deviance", criterion(point), "fixed", rel = 1e-9, theta = as.list(point)))
}

means_by <- function(values, group) {
  means <- tapply(values, group, mean)
  labelled(means, names(means))
}

# ML of a balanced block design in closed form: SS of blends on 4, treatments on 3 and residuals on 12 degrees of freedom.
bootstrap_p <- function(null, observed, draws = 400000) {
  deviance_of <- function(between, within) {
    separate <- 5 * log(between / 5) + 15 * log(within / 15)
    ifelse(between / 5 < within / 15, 20 * log((between + within) / 20), separate)
  }
  set.seed(1)
  blends <- (4 * as.numeric(VarCorr(null)$blend) + sigma(null)^2) * rchisq(draws, 4)
  treatments <- sigma(null)^2 * rchisq(draws, 3)
  residuals <- sigma(null)^2 * rchisq(draws, 12)
  ratio <- deviance_of(blends, residuals + treatments) - deviance_of(blends, residuals)
  mean(ratio >= observed)
}

# The lecture's own matrices, as printed (Franc, "Simple introduction to theory of mixed models").
toy_matrices <- function(variant) {
  treatments <- matrix(c(1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1), 6, byrow = TRUE)
  Z <- matrix(c(1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1), 6, byrow = TRUE)
  same <- matrix(c(
    1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1
  ), 6, byrow = TRUE)
  overfull <- cbind(1, treatments, if (variant == "fixed") Z)
  full <- overfull[, c(1, 3, if (variant == "fixed") c(5, 6))]
  out <- list(
    entry("overparametrised_X", overfull, "exact", abs = 0), entry("X", full, "exact", abs = 0),
    entry("rank_X", qr(overfull)$rank, "exact", abs = 0)
  )
  if (variant == "fixed") return(out)
  V <- 4 * diag(6) + 9 * same
  c(out, list(entry("Z", Z, "exact", abs = 0), entry("V[sigma=2, sd_block=3]", V, "rounding", rel = 1e-14)))
}

# Numbers that a lecture prints about one model and that are no part of a fit's own summary.
lecture_entries <- function(name, variant, method, fit, formula, data, contrasts) {
  out <- list()
  if (name == "sleepstudy" || (name == "penicillin_blocks" && variant == "main")) {
    other <- setdiff(both, method)
    value <- criterion_of(formula, data, other, contrasts)(getME(fit, "theta"))
    out <- c(out, list(entry(paste0("deviance_", other), value, "elsewhere", abs = 1e-5)))
  }
  if (name == "sleepstudy" && variant == "uncorrelated" && method == "REML") {
    out <- c(out, list(
      entry("fitted_mean[Subject]", means_by(fitted(fit), data$Subject), "residual", abs = 1e-5),
      entry("population_mean[Subject]", means_by(predict(fit, re.form = NA), data$Subject), "residual", abs = 1e-5),
      entry("observed_mean[Subject]", means_by(data$Reaction, data$Subject), "closed", abs = 1e-9)
    ))
  }
  if (name == "wool") {
    ratio <- as.numeric(VarCorr(fit)$bale) / sigma(fit)^2
    out <- c(out, list(
      entry("gamma_bale", ratio, "variance", rel = 2e-6),
      entry("icc_bale", ratio / (1 + ratio), "variance", rel = 2e-6),
      entry("weight_bale", 1 / (1 + 4 * ratio), "variance", rel = 2e-6),
      entry("marginal_block_bale", sigma(fit)^2 * (diag(4) + ratio), "variance", rel = 2e-6)
    ))
  }
  if (name %in% c("tablets", "tablets_missing") && method == "REML") {
    sequential <- (chol(solve(as.matrix(vcov(fit)))) %*% fixef(fit))^2
    labels <- c("Intercept", "method[hplc]")
    df <- nlme::lme(y ~ method, random = ~ 1 | tablet, data = data)$fixDF$X
    p <- 2 * pt(-abs(fixef(fit) / sqrt(diag(as.matrix(vcov(fit))))), df)
    out <- c(out, list(
      entry("sequential_F", labelled(sequential, labels), "variance", rel = 2e-6),
      entry("containment_df", labelled(df, labels), "exact", abs = 0),
      entry("containment_p", labelled(p, labels), "variance", rel = 1e-4)
    ))
  }
  if (name == "penicillin_blocks" && variant == "main" && method == "ML") {
    null <- fit_lmer(yield ~ 1 + (1 | blend), data, "ML", NULL)
    ratio <- 2 * as.numeric(logLik(fit) - logLik(null))
    out <- c(out, list(
      entry("lrt[null]", ratio, "criterion", abs = 4e-8),
      entry("lrt_p[null]", pchisq(ratio, 3, lower.tail = FALSE), "criterion", abs = 1e-8),
      entry("bootstrap_p[null]", bootstrap_p(null, ratio), "bootstrap", abs = 0.06)
    ))
  }
  if (name == "shrinkage_simulation" && variant == "main" && method == "ML") {
    kept <- 1 - 1 / (1 + 3 * as.numeric(VarCorr(fit)$individual) / sigma(fit)^2)
    truth <- data$U[!duplicated(data$individual)]
    means <- tapply(data$y, data$individual, mean) - mean(data$y)
    out <- c(out, list(
      entry("kept_individual", kept, "variance", rel = 2e-6),
      entry("squared_error_ranef[U]", sum((ranef(fit)$individual[, 1] - truth)^2), "variance", rel = 4e-6),
      entry("squared_error_means[U]", sum((means - truth)^2), "closed", rel = 1e-10)
    ))
  }
  if (name == "toy_blocks" && method == "REML") out <- c(out, toy_matrices(variant))
  out
}

lmer_entries <- function(name, spec, variant, method, data) {
  formula <- spec$variants[[variant]]
  contrasts <- spec$contrasts[[variant]]
  fit <- fit_lmer(formula, data, method, contrasts)
  theta <- getME(fit, "theta")
  loglik <- as.numeric(logLik(fit))
  groups <- merged(fit)
  c(
    criteria_entries(loglik, attr(logLik(fit), "df"), nobs(fit)),
    list(
      entry("sigma", sigma(fit), "sd", rel = 1e-6), entry("var_residual", sigma(fit)^2, "variance", rel = 2e-6),
      entry("theta", as.list(unname(theta)), if (all(theta == 0)) "exact" else "sd",
            abs = if (all(theta == 0)) 0 else 1e-6 * max(theta)),
      entry("singular", as.numeric(isSingular(fit)), "exact", abs = 0)
    ),
    fixed_entries(fixef(fit), as.matrix(vcov(fit)), spec),
    unlist(lapply(names(groups), function(g) group_entries(fit, g, groups[[g]], spec)), recursive = FALSE),
    if (!isTRUE(spec$brief)) list(
      entry("fitted", as.numeric(fitted(fit)), "residual", abs = 1e-6 * sigma(fit)),
      entry("population", as.numeric(predict(fit, re.form = NA)), "residual", abs = 1e-6 * sigma(fit))
    ),
    lecture_entries(name, variant, method, fit, formula, data, contrasts),
    deviance_at(formula, data, method, contrasts, as.numeric(theta), isTRUE(spec$brief))
  )
}

lm_entries <- function(name, spec, variant, method, data) {
  fit <- lm(spec$variants[[variant]], data, contrasts = spec$contrasts[[variant]])
  loglik <- logLik(fit, REML = method == "REML")
  n <- nobs(fit)
  sigma <- sqrt(deviance(fit) / if (method == "REML") df.residual(fit) else n)
  covariance <- vcov(fit) * (sigma / summary(fit)$sigma)^2
  c(
    criteria_entries(as.numeric(loglik), attr(loglik, "df"), n), list(entry("sigma", sigma, "closed", rel = 1e-10), entry("var_residual", sigma^2, "closed", rel = 1e-10)),
    fixed_entries(coef(fit), covariance, spec),
    list(entry("fitted", as.numeric(fitted(fit)), "closed", abs = 1e-10)),
    if (name == "toy_blocks" && method == "REML") toy_matrices(variant)
  )
}

# Analyses without random effects that a lecture sets beside the mixed model; tests/classical.py computes them again.
anova_table <- function(formula, data) {
  table <- anova(lm(formula, data))
  rows <- rownames(table)
  tested <- !is.na(table[["F value"]])
  list(
    ss = labelled(table[["Sum Sq"]], rows), df = labelled(table[["Df"]], rows), ms = labelled(table[["Mean Sq"]], rows),
    F = labelled(table[["F value"]][tested], rows[tested]), p = labelled(table[["Pr(>F)"]][tested], rows[tested])
  )
}

mean_of <- function(values) {
  found <- t.test(values)
  list(
    mean = mean(values), var = var(values), sd = sd(values), se = sd(values) / sqrt(length(values)),
    t = found$statistic[[1]], df = found$parameter[[1]], p = found$p.value, interval = as.numeric(found$conf.int)
  )
}

least_squares_means <- function(data) {
  fit <- lm(y ~ tablet + method, data)
  over <- function(method) {
    tablet <- factor(levels(data$tablet), levels(data$tablet))
    rows <- data.frame(tablet = tablet, method = factor(method, levels(data$method)))
    colMeans(model.matrix(~ tablet + method, rows))
  }
  rows <- rbind(hplc = over("hplc"), nir = over("nir"))
  rows <- rbind(rows, difference = rows[1, ] - rows[2, ])
  estimate <- drop(rows %*% coef(fit))
  se <- sqrt(diag(rows %*% vcov(fit) %*% t(rows)))
  df <- df.residual(fit)
  labels <- rownames(rows)
  list(
    mean = labelled(estimate, labels), se = labelled(se, labels), t = labelled(estimate / se, labels), df = df,
    p = labelled(2 * pt(-abs(estimate / se), df), labels),
    lower = labelled(estimate - qt(0.975, df) * se, labels), upper = labelled(estimate + qt(0.975, df) * se, labels)
  )
}

overall <- function(formula, data) {
  found <- summary(lm(formula, data))
  F <- found$fstatistic
  list(
    sigma = found$sigma, df = c(F[[2]], F[[3]]), r2 = found$r.squared, adjusted_r2 = found$adj.r.squared,
    F = F[[1]], p = pf(F[[1]], F[[2]], F[[3]], lower.tail = FALSE)
  )
}

classical <- list(
  wool = list(
    anova = function(d) anova_table(y ~ bale, d),
    means = function(d) list(mean = means_by(d$y, d$bale), total_ss = sum((d$y - mean(d$y))^2))
  ),
  penicillin_blocks = list(
    anova = function(d) anova_table(yield ~ treat + blend, d), ols = function(d) overall(yield ~ treat + blend, d)
  ),
  tablets = list(
    paired = function(d) mean_of(d$y[d$method == "hplc"] - d$y[d$method == "nir"]),
    anova = function(d) anova_table(y ~ method + tablet, d), nir = function(d) mean_of(d$y[d$method == "nir"])
  ),
  tablets_missing = list(
    anova = function(d) anova_table(y ~ tablet + method, d), means = function(d) least_squares_means(d)
  ),
  planks = list(anova = function(d) anova_table(humidity ~ plank * width + plank * depth + width:depth, d)),
  patents = list(
    applicant_first = function(d) anova_table(share ~ applicant + examiner + technology, d),
    technology_first = function(d) anova_table(share ~ technology + examiner + applicant, d)
  )
)

classical_entries <- function(name, data) {
  items <- list()
  for (analysis in names(classical[[name]])) {
    values <- classical[[name]][[analysis]](data)
    rows <- printed[printed$model == name & printed$variant == analysis & printed$method == "classical", ]
    if (length(absent <- setdiff(rows$quantity, names(values)))) stop(name, ": not computed: ", toString(absent))
    found <- lapply(names(values), function(quantity) entry(quantity, values[[quantity]], "closed", rel = 1e-9))
    items <- c(items, lapply(found, function(item) {
      c(list(variant = analysis, method = "classical"), attach_printed(item, rows))
    }))
  }
  items
}

attach_printed <- function(item, rows) {
  rows <- rows[rows$quantity == item$quantity & is.null(item$theta), ]
  if (nrow(rows) == 0) return(item)
  values <- as.numeric(rows$printed)
  item$printed <- if (all(rows$label == "")) values else setNames(as.list(values), rows$label)
  within <- as.numeric(rows$within)
  item$printed_within <- if (all(rows$label == "")) within else setNames(as.list(within), rows$label)
  item$printed_in <- rows$source[1]
  if (any(rows$why != "")) item$why <- unique(rows$why[rows$why != ""])[1]
  item
}

entries_of <- function(name, spec, variant, method, data) {
  random <- length(findbars(spec$variants[[variant]])) > 0
  items <- if (random) lmer_entries(name, spec, variant, method, data) else lm_entries(name, spec, variant, method, data)
  rows <- printed[printed$model == name & printed$variant == variant & printed$method == method, ]
  absent <- setdiff(rows$quantity, sapply(items, `[[`, "quantity"))
  if (length(absent)) stop(name, ": printed but not computed: ", toString(absent))
  lapply(items, function(item) c(list(variant = variant, method = method), attach_printed(item, rows)))
}

as_line <- function(item) as.character(toJSON(item, auto_unbox = TRUE, digits = NA, null = "null"))

write_reference <- function(name, spec) {
  data <- read_data(name, spec)
  items <- list()
  for (variant in names(spec$variants)) {
    for (method in both) items <- c(items, entries_of(name, spec, variant, method, data))
  }
  items <- c(items, classical_entries(name, data))
  software <- sprintf("lme4 %s, R %s", packageDescription("lme4")$Version, getRversion())
  head <- sprintf('{"model": "%s",\n "source": "%s (tests/reference/make_reference.R)",\n "entries": [', name, software)
  lines <- vapply(items, as_line, "")
  path <- file.path("models", name, "reference.json")
  writeLines(c(head, paste0("  ", lines, c(rep(",", length(lines) - 1), "")), "]}"), path)
  cat(name, length(items), "\n")
}

if (sys.nframe() == 0L) { # not where make_glmm_reference.R sources this file
  chosen <- commandArgs(trailingOnly = TRUE)
  for (name in if (length(chosen)) chosen else names(models)) write_reference(name, models[[name]])
}
