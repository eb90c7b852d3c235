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
}
report$source <- sprintf("glmmTMB %s, nlme %s, R %s (tests/reference/make_zeros.R)", packageVersion("glmmTMB"), packageVersion("nlme"), getRversion())
jsonlite::write_json(report, "tests/reference/zeros.json", digits = 12, auto_unbox = TRUE, pretty = TRUE)
