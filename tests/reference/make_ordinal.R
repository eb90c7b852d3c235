# Writes models/wine/reference.json and tests/reference/ordinal.json: what ordinal's clmm and clm and MASS's polr give.
#
#     Rscript tests/reference/make_ordinal.R                  from the root of the repository
#
# Needs ordinal, MASS and jsonlite. clmm stops where its optimiser stalls: the log-likelihood is that of the maximum to 1e-8,
# coefficients to about 1e-5, standard errors (a Hessian by differences of a likelihood with an inner optimum) to 1 % for
# Laplace's approximation and to 1e-5 for quadrature. With another link than the logit its Laplace approximation is off, by 2e-6
# (probit) and 1e-4 (cloglog), and its quadrature is not: tests/test_thresholds.py takes the approximation by brute force. What clm and polr call cloglog, clmm calls loglog.

suppressPackageStartupMessages({
  library(ordinal)
  library(jsonlite)
})
data(wine)
write.csv(wine[, c("rating", "temp", "contact", "bottle", "judge", "response")], "models/wine/data.csv", row.names = FALSE, quote = FALSE)
control <- clmm.control(maxIter = 400, gradTol = 1e-8)
public <- c(tempwarm = "temp[warm]", contactyes = "contact[yes]", "tempwarm:contactyes" = "temp[warm]:contact[yes]")

mixed <- function(variant, formula, link = "logit", nodes = 1) {
  fit <- suppressWarnings(clmm(formula, data = wine, link = link, nAGQ = nodes, Hess = TRUE, control = control))
  sds <- lapply(VarCorr(fit), function(v) sqrt(v[1, 1]))
  numbers(variant, fit, if (nodes == 1) "Laplace" else "AGHQ", if (nodes > 1) list(nodes = nodes), sds, if (nodes == 1) 1e-2 else 1e-4)
}
fixed <- function(variant, formula, link = "logit") numbers(variant, clm(formula, data = wine, link = link), "Laplace", NULL, list(), 1e-4)

numbers <- function(variant, fit, method, options, sds, se_within) {
  table <- coef(summary(fit))
  cuts <- grepl("|", rownames(table), fixed = TRUE)
  beta <- table[!cuts, "Estimate"]
  names(beta) <- public[rownames(table)[!cuts]]
  se <- table[!cuts, "Std. Error"]
  names(se) <- names(beta)
  tau <- table[cuts, "Estimate"]
  names(tau) <- rownames(table)[cuts]
  curved <- method == "Laplace" && length(sds) && fit$link == "probit"
  stall <- "where the program's optimiser stops"
  within <- 1e-4 * min(table[, "Std. Error"])
  entry <- function(quantity, value, reason, ...) {
    found <- list(variant = variant, method = method, quantity = quantity, value = value, tolerance = c(list(...), reason = reason))
    if (!is.null(options)) found$options <- options
    found
  }
  found <- list(
    if (curved) entry("loglik", as.numeric(logLik(fit)), "clmm's curvature at the modes; brute force agrees with us", abs = 3e-6)
    else entry("loglik", as.numeric(logLik(fit)), "criterion at its optimum", abs = 1e-6),
    entry("df", attr(logLik(fit), "df"), "exact", abs = 0),
    entry("fixef", as.list(beta), stall, abs = within),
    entry("thresholds", as.list(tau), stall, abs = within),
    entry("se", as.list(se), "its Hessian is one of differences", rel = se_within)
  )
  c(found, lapply(names(sds), function(g) entry(paste0("sd_", g), list(Intercept = sds[[g]]), stall, abs = within)))
}

judges <- rating ~ temp + contact + (1 | judge)
entries <- c(
  mixed("main", judges), mixed("main", judges, nodes = 10), mixed("interaction", rating ~ temp * contact + (1 | judge)),
  mixed("probit", judges, "probit"), mixed("probit", judges, "probit", 10), mixed("cloglog", judges, "loglog", 10),
  fixed("alone", rating ~ temp + contact)
)
program <- sprintf("ordinal %s, R %s.%s (tests/reference/make_ordinal.R)", packageVersion("ordinal"), R.version$major, R.version$minor)
write(toJSON(list(model = "wine", source = program, entries = entries), auto_unbox = TRUE, digits = 15, pretty = TRUE), "models/wine/reference.json")

links <- c(logit = "logistic", probit = "probit", cloglog = "cloglog")
polr <- lapply(links, function(method) {
  fit <- MASS::polr(rating ~ temp + contact, data = wine, method = method, Hess = TRUE, control = list(reltol = 1e-15))
  list(loglik = as.numeric(logLik(fit)), fixef = as.list(setNames(coef(fit), public[names(coef(fit))])), thresholds = as.list(fit$zeta))
})
clm_fits <- lapply(setNames(names(links), names(links)), function(link) {
  fit <- clm(rating ~ temp + contact, data = wine, link = link)
  new <- predict(fit, data.frame(temp = c("cold", "warm"), contact = c("no", "yes")), type = "prob", se.fit = TRUE, interval = TRUE)
  list(
    loglik = as.numeric(logLik(fit)), fixef = as.list(setNames(fit$beta, public[names(fit$beta)])), thresholds = as.list(fit$alpha),
    se = as.list(sqrt(diag(vcov(fit)))), fit = new$fit, se_fit = new$se.fit, lower = new$lwr, upper = new$upr
  )
})
write(toJSON(list(source = program, clm = clm_fits, polr = polr), auto_unbox = TRUE, digits = 15, pretty = TRUE), "tests/reference/ordinal.json")
