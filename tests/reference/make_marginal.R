# Numbers for tests/test_population.py: Rscript make_marginal.R writes marginal.json.
# R with lme4, glmmTMB, emmeans, numDeriv, jsonlite; versions are in the file.
suppressMessages({library(lme4); library(glmmTMB); library(emmeans); library(numDeriv); library(jsonlite)})
data(cbpp, package = "lme4")
out <- list(versions = as.list(sapply(c("lme4", "glmmTMB", "emmeans", "numDeriv"), function(p) as.character(packageVersion(p)))))
tidy <- function(e, type = "link", ...) { s <- as.data.frame(summary(e, type = type, infer = c(TRUE, FALSE), ...)); names(s) <- sub("asymp\\.", "", names(s)); s }
# standard errors of θ and β together: glmmTMB's Hessian; its theta is log sd
average <- function(fit, X, link, sd_at, Z = rep(1, nrow(X))) {
  full <- vcov(fit, full = TRUE)
  p <- ncol(X)
  value <- function(psi) sapply(seq_len(nrow(X)), function(i) {
    eta <- sum(X[i, ] * psi[1:p]); s <- exp(psi[p + 1]) * Z[i]
    g <- if (link == "logit") plogis else if (link == "probit") pnorm else exp
    integrate(function(u) g(eta + s * u) * dnorm(u), -9, 9, rel.tol = 1e-12)$value })
  psi <- c(fixef(fit)$cond, sd_at)
  J <- jacobian(value, psi)
  list(mean = value(psi), se = sqrt(diag(J %*% full %*% t(J))), cov = J %*% full %*% t(J))
}
X <- cbind(1, rbind(0, diag(3)))
for (link in c("logit", "probit")) {
  fit <- glmmTMB(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, family = binomial(link), control = glmmTMBControl(optCtrl = list(rel.tol = 1e-15, iter.max = 1e4, eval.max = 1e4)))
  em <- emmeans(fit, ~ period, df = Inf)
  out[[link]] <- list(link = tidy(em), response = tidy(em, "response"), pairs = as.data.frame(summary(pairs(em, reverse = FALSE), infer = c(TRUE, TRUE))),
    average = average(fit, X, link, getME(fit, "theta")))
  if (link == "logit") out[[link]]$ratios <- as.data.frame(summary(pairs(em), type = "response", infer = c(TRUE, TRUE)))
}
set.seed(7)
n <- 240
d <- data.frame(g = sprintf("g%02d", rep(1:24, each = 10)), a = rep(c("p", "q", "r"), length.out = n), x = round(runif(n, -2, 2), 3))
u <- rnorm(24, 0, .5)
d$y <- rpois(n, exp(.5 + c(p = 0, q = .4, r = -.3)[d$a] + .3 * d$x + ifelse(d$a == "q", .2, 0) * d$x + u[as.integer(factor(d$g))]))
fit <- glmmTMB(y ~ a * x + (1 | g), d, family = poisson, control = glmmTMBControl(optCtrl = list(rel.tol = 1e-15, iter.max = 1e4, eval.max = 1e4)))
em <- emmeans(fit, ~ a, at = list(x = .5), df = Inf)
out$poisson <- list(data = d, link = tidy(em), response = tidy(em, "response"), ratios = as.data.frame(summary(pairs(em), type = "response", infer = c(TRUE, TRUE))),
  trends = as.data.frame(summary(emtrends(fit, ~ a, "x"), infer = c(TRUE, FALSE))),
  trends_response = as.data.frame(summary(emtrends(fit, ~ a, "x", regrid = "response", at = list(x = .5)), infer = c(TRUE, FALSE))),
  average = average(fit, model.matrix(~ a * x, data.frame(a = c("p", "q", "r"), x = .5)), "log", getME(fit, "theta")))
glm1 <- glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, family = binomial, control = glmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5)))
out$glmer <- tidy(emmeans(glm1, ~ period), "response")
write(toJSON(out, digits = 12, dataframe = "columns", auto_unbox = TRUE, pretty = 1), "marginal.json")
