# Writes zeros.json: glmmTMB's predictions of counts with zeros of their own, and Gaussian models with a formula for sigma.
#
#     Rscript tests/reference/make_zeros.R          from the root of the repository
#
# Needs glmmTMB, nlme, numDeriv and jsonlite. Fits are polished by Newton steps on glmmTMB's exact gradient; standard errors are
# TMB's generalized delta method over all parameters and effects, with the Hessian at the polished optimum.

suppressPackageStartupMessages({ library(glmmTMB); library(numDeriv) })

salamanders <- read.csv("models/salamanders/data.csv")
salamanders$mined <- factor(salamanders$mined, c("yes", "no"))
salamanders$spp <- factor(salamanders$spp, c("GP", "PR", "DM", "EC-A", "EC-L", "DES-L", "DF"))
rows <- c(1, 4, 5, 60, 123, 200, 301, 377, 459, 512, 600, 644)

mean_part <- count ~ spp + mined + (1 | site)
cases <- list(
  zero_inflated_poisson = list(family = poisson(), zi = ~ mined, disp = ~ 1),
  zero_inflated_negativebinomial = list(family = nbinom2(), zi = ~ mined, disp = ~ 1),
  zero_inflated_negativebinomial_by_day = list(family = nbinom2(), zi = ~ mined, disp = ~ DOY),
  hurdle_poisson = list(family = truncated_poisson(), zi = ~ mined + DOY, disp = ~ 1),
  hurdle_negativebinomial = list(family = truncated_nbinom2(), zi = ~ mined, disp = ~ 1),
  hurdle_negativebinomial1 = list(family = truncated_nbinom1(), zi = ~ 1, disp = ~ 1)
)

polished <- function(fit) {
  objective <- fit$obj
  TMB::newtonOption(objective, tol = 1e-12)
  gradient <- function(par) drop(objective$gr(par))
  par <- fit$fit$par
  for (step in 1:4) { H <- jacobian(gradient, par); par <- par - solve((H + t(H)) / 2, gradient(par)) }
  value <- objective$fn(par)
  fit$fit$par <- par
  fit$fit$parfull <- objective$env$last.par
  list(fit = fit, par = par, loglik = -value, full = objective$env$last.par, covariance = solve((H + t(H)) / 2))
}

report <- list()
for (name in names(cases)) {
  case <- cases[[name]]
  fit <- suppressWarnings(glmmTMB(mean_part, salamanders, family = case$family, ziformula = case$zi, dispformula = case$disp))
  found <- polished(fit)
  entry <- list(loglik = found$loglik, rows = rows - 1)
  for (type in c("response", "conditional", "zprob")) {
    at <- predict(found$fit, newdata = salamanders[rows, ], type = type, se.fit = TRUE)
    entry[[type]] <- list(fit = as.numeric(at$fit), se = as.numeric(at$se.fit))
  }
  report[[name]] <- entry
  cat(name, found$loglik, entry$conditional$fit[2], entry$response$fit[2], "\n")
}

orthodont <- as.data.frame(nlme::Orthodont)
orthodont$Sex <- factor(as.character(orthodont$Sex), c("Female", "Male"))
tight <- nlme::lmeControl(tolerance = 1e-12, msTol = 1e-14, maxIter = 500, msMaxIter = 500, niterEM = 100)
gaussians <- list(
  by_sex = list(
    data = orthodont, formula = distance ~ age * Sex + (1 | Subject), disp = ~ Sex,
    nlme = list(distance ~ age * Sex, random = ~ 1 | Subject, weights = nlme::varIdent(form = ~ 1 | Sex))
  ),
  by_day = list(
    data = lme4::sleepstudy, formula = Reaction ~ Days + (Days | Subject), disp = ~ Days,
    nlme = list(Reaction ~ Days, random = ~ Days | Subject, weights = nlme::varExp(form = ~ Days))
  )
)
halved <- if (packageVersion("glmmTMB") < "1.1.7") 2 else 1 # coefficients were those of log variance
for (name in names(gaussians)) {
  case <- gaussians[[name]]
  found <- polished(suppressWarnings(glmmTMB(case$formula, case$data, dispformula = case$disp)))
  se <- sqrt(diag(found$covariance))
  own <- function(what) names(found$par) == what
  fitted <- do.call(nlme::lme, c(case$nlme, list(data = case$data, method = "ML", control = tight)))
  report[[paste0("gaussian_", name)]] <- list(
    loglik = found$loglik, nlme_loglik = as.numeric(logLik(fitted)), fixef = as.numeric(found$par[own("beta")]), se = se[own("beta")],
    log_sigma = found$par[own("betad")] / halved, log_sigma_se = se[own("betad")] / halved,
    sd = as.numeric(attr(VarCorr(found$fit)$cond$Subject, "stddev"))
  )
  cat(name, found$loglik, report[[paste0("gaussian_", name)]]$nlme_loglik, "\n")

  # REML: glmmTMB integrates beta with the effects; its standard errors of beta are those of a prediction of such an effect.
  found <- polished(suppressWarnings(glmmTMB(case$formula, case$data, dispformula = case$disp, REML = TRUE)))
  report_at <- TMB::sdreport(found$fit$obj, par.fixed = found$par, hessian.fixed = solve(found$covariance))
  random <- summary(report_at, "random")
  beta <- random[rownames(random) == "beta", , drop = FALSE]
  se <- sqrt(diag(found$covariance))
  own <- function(what) names(found$par) == what
  fitted <- do.call(nlme::lme, c(case$nlme, list(data = case$data, method = "REML", control = tight)))
  report[[paste0("gaussian_", name, "_reml")]] <- list(
    loglik = found$loglik, nlme_loglik = as.numeric(logLik(fitted)), fixef = as.numeric(beta[, 1]), se = as.numeric(beta[, 2]),
    nlme_fixef = as.numeric(nlme::fixef(fitted)), nlme_se = as.numeric(sqrt(diag(vcov(fitted)))), nlme_sigma = fitted$sigma,
    nlme_ratio = as.numeric(coef(fitted$modelStruct$varStruct, unconstrained = FALSE)),
    log_sigma = found$par[own("betad")] / halved, log_sigma_se = se[own("betad")] / halved,
    theta = as.numeric(found$par[own("theta")]), nlme_sd = as.numeric(nlme::VarCorr(fitted)[, "StdDev"])
  )
  cat(name, "REML", found$loglik, report[[paste0("gaussian_", name, "_reml")]]$nlme_loglik, "\n")
}
# no random effects: generalized least squares
stock <- data.frame(y = datasets::warpbreaks$breaks, wool = datasets::warpbreaks$wool, tension = datasets::warpbreaks$tension)
for (method in c("ML", "REML")) {
  fitted <- nlme::gls(y ~ wool * tension, stock, weights = nlme::varIdent(form = ~ 1 | wool), method = method,
    control = nlme::glsControl(tolerance = 1e-12, msTol = 1e-14, maxIter = 500, msMaxIter = 500))
  report[[paste0("gaussian_gls_", tolower(method))]] <- list(
    loglik = as.numeric(logLik(fitted)), fixef = as.numeric(coef(fitted)), se = as.numeric(sqrt(diag(vcov(fitted)))),
    sigma = fitted$sigma, ratio = as.numeric(coef(fitted$modelStruct$varStruct, unconstrained = FALSE))
  )
}
report$source <- sprintf("glmmTMB %s, nlme %s, R %s (tests/reference/make_zeros.R)", packageVersion("glmmTMB"), packageVersion("nlme"), getRversion())
jsonlite::write_json(report, "tests/reference/zeros.json", digits = 12, auto_unbox = TRUE, pretty = TRUE)
