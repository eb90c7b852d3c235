# glmmTMB's and lme4's fits for tests/test_generalized_models.py: python glmm_data.py FOLDER && Rscript make_glmm.R FOLDER glmm.json
# A formula is read by both programs as it stands, but for p(successes, trials). Families and links have the package's names.
owd <- getwd()
setwd(file.path("..", ".."))
source("tests/reference/make_glmm_reference.R")
setwd(owd)
arguments <- commandArgs(trailingOnly = TRUE)

case <- function(table, formula, family, link, program = "glmmTMB", ...) {
  list(table = table, formula = formula, family = family, link = link, program = program, options = list(...))
}
cases <- list(
  crossed_probit = case("crossed", "binary ~ x + z + (1 | g) + (1 | h)", "bernoulli", "probit"),
  crossed_cloglog = case("crossed", "binary ~ x + z + (1 | g) + (1 | h)", "bernoulli", "cloglog"),
  crossed_probit_expected = case("crossed", "binary ~ x + z + (1 | g) + (1 | h)", "bernoulli", "probit", "lme4", information = "expected"),
  binary_slopes = case("crossed", "binary ~ x + (x | g)", "bernoulli", "logit"),
  binary_weights = case("crossed", "binary ~ x + (1 | g)", "bernoulli", "logit", weights = "w"),
  binomial_slopes = case("crossed", "p(events, trials) ~ x * z + (x | g) + (1 | h)", "binomial", "logit"),
  binomial_cauchit = case("crossed", "p(events, trials) ~ x + (1 | g)", "binomial", "cauchit", "lme4", information = "expected"),
  betabinomial_crossed = case("crossed", "p(events, trials) ~ x + z + (1 | g) + (1 | h)", "betabinomial", "logit"),
  poisson_exposure = case("insurance", "Claims ~ offset(log(Holders)) + Age + Group + (1 | District)", "poisson", "log"),
  poisson_weights = case("crossed", "count ~ x + offset(log(time)) + (1 | g) + (1 | h)", "poisson", "log", weights = "w"),
  poisson_sqrt = case("insurance", "Claims ~ root + (1 | District)", "poisson", "sqrt", "lme4", information = "expected"),
  poisson_fruits = case("fruits", "fruits ~ nutrient * amd + rack + (1 | popu) + (1 | gen) + (1 | row)", "poisson", "log"),
  fruits_slopes = case("fruits", "fruits ~ nutrient * amd + (nutrient | gen)", "negativebinomial", "log"),
  nb2_crossed_slopes = case("crossed", "count ~ x + z + offset(log(time)) + (x | g) + (1 | h)", "negativebinomial", "log"),
  nb1_crossed = case("crossed", "count ~ x + z + offset(log(time)) + (1 | g) + (1 | h)", "negativebinomial1", "log"),
  nb2_sqrt = case("insurance", "Claims ~ root + Group + (1 | District)", "negativebinomial", "sqrt"),
  gamma_log = case("gamma_sim", "y ~ x + (1 | g)", "gamma", "log"),
  gamma_log_slopes = case("crossed", "positive ~ x + z + (x | g) + (1 | h)", "gamma", "log"),
  gamma_inverse = case("sleep", "Reaction ~ Days + (1 | Subject)", "gamma", "inverse"),
  gamma_identity = case("sleep", "Reaction ~ Days + (1 | Subject)", "gamma", "identity"),
  beta_intercepts = case("beta_sim", "p ~ x + (1 | g)", "beta", "logit"),
  beta_slopes = case("crossed", "share ~ x + z + (x | g) + (1 | h)", "beta", "logit"),
  beta_probit = case("crossed", "share ~ x + (1 | g)", "beta", "probit"),
  visits_laplace = case("visits", "bad ~ arm * month + (1 | patient)", "bernoulli", "logit"),
  visits_slopes = case("visits", "bad ~ arm * month + (month | patient)", "bernoulli", "logit"),
  visits_aghq = case("visits", "bad ~ arm * month + (1 | patient)", "bernoulli", "logit", "lme4", nodes = 20)
)

families <- list(
  bernoulli = binomial, binomial = binomial, betabinomial = betabinomial, poisson = poisson, negativebinomial = nbinom2,
  negativebinomial1 = nbinom1, gamma = Gamma, beta = beta_family
)

numbers <- function(name) {
  spec <- cases[[name]]
  data <- read.csv(file.path(arguments[1], paste0(spec$table, ".csv")), stringsAsFactors = TRUE)
  formula <- as.formula(gsub("p\\((\\w+), (\\w+)\\)", "cbind(\\1, \\2 - \\1)", spec$formula))
  family <- families[[spec$family]](link = spec$link)
  options <- spec$options[setdiff(names(spec$options), "weights")]
  weights <- if (is.null(spec$options$weights)) NULL else data[[spec$options$weights]]
  found <- found_by[[spec$program]](list(formula = formula, family = family, options = options, weights = weights), data)
  sds <- lapply(found$components, function(component) as.list(unname(attr(component, "stddev"))))
  correlations <- lapply(found$components, function(component) {
    R <- attr(component, "correlation")
    as.list(if (length(R) > 1) R[upper.tri(R)] else numeric(0))
  })
  cat(name, found$loglik, "\n")
  list(
    table = spec$table, formula = spec$formula, family = spec$family, link = spec$link, weights = spec$options$weights,
    method = if (is.null(spec$options$nodes)) "Laplace" else "AGHQ", options = options, program = spec$program,
    loglik = found$loglik, fixef = as.list(unname(found$beta)), se = as.list(unname(sqrt(diag(found$covariance)))), sd = sds, corr = correlations,
    dispersion = found$dispersion
  )
}

found <- sapply(names(cases), numbers, simplify = FALSE)
versions <- sprintf("glmmTMB %s, lme4 %s, R %s", packageDescription("glmmTMB")$Version, packageDescription("lme4")$Version, getRversion())
writeLines(toJSON(list(source = versions, cases = found), auto_unbox = TRUE, digits = NA, null = "null", pretty = 1), arguments[2])
