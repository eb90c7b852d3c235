# Numbers of emmeans for tests/test_means.py: Rscript make_means.R writes means.json, the simulated data with it.
# R 4.2.2, lme4 1.1-31, lmerTest 3.1-3, pbkrtest 0.5.2, emmeans 1.8.4-1, mvtnorm 1.1-3.
suppressMessages({library(lme4); library(lmerTest); library(emmeans); library(jsonlite); library(splines)})
options(contrasts = c("contr.treatment", "contr.poly"))
emm_options(lmerTest.limit = 1e5, pbkrtest.limit = 1e5)
set.seed(42)
n <- 120
d <- data.frame(g = sprintf("g%02d", sample(1:15, n, TRUE)), a = sample(c("p", "q", "r", "s"), n, TRUE, prob = c(.4, .3, .2, .1)),
  b = sample(c("x", "y", "z"), n, TRUE, prob = c(.5, .3, .2)), c = sample(c("lo", "hi"), n, TRUE, prob = c(.7, .3)),
  t = round(runif(n, 1, 10), 2), k = sample(c(0, 1), n, TRUE, prob = c(.3, .7)), w = round(runif(n, .5, 3), 2))
d$a[1:24] <- rep(c("p", "q", "r", "s"), 6)
d$b[1:24] <- rep(c("x", "y", "z"), each = 8)
group <- setNames(rnorm(15, 0, 1.2), sprintf("g%02d", 1:15))
tilt <- setNames(rnorm(15, 0, .25), sprintf("g%02d", 1:15))
d$y <- round(with(d, 10 + c(p = 0, q = 1, r = 2, s = .5)[a] + c(x = 0, y = -1, z = 1)[b] + ifelse(a == "q" & b == "z", 2, 0) +
  ifelse(c == "hi", .8, 0) * ifelse(b == "y", -1, 1) + .3 * t - .02 * t^2 + .5 * k + group[g] + tilt[g] * t) + rnorm(n, 0, .9), 2)
d$pos <- round(exp(d$y / 8), 3)
empty <- which(d$a == "s" & d$b == "z")  # left out, counted from 1

control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5))
# the call names its data, where emmeans looks them up
reml <- function(formula, data = "d", ...)
  eval(as.call(c(as.name("lmer"), formula, data = as.name(data), control = as.name("control"), as.list(substitute(list(...)))[-1])), globalenv())
data(Oats, package = "nlme")
oats <- data.frame(block = as.character(Oats$Block), variety = as.character(Oats$Variety), n = as.character(Oats$nitro), y = Oats$yield)
lost <- c(1, 5, 9, 22, 40, 41, 63)
oats_kept <- oats[-lost, ]
kept <- d[-empty, ]
fits <- list(two = reml(y ~ a * b + (1 | g)), sum = reml(y ~ a * b + t + (1 | g), contrasts = list(a = "contr.sum", b = "contr.helmert")),
  three = reml(y ~ a + b * c + t + (1 | g)), slope = reml(y ~ a * t + (t | g)), square = reml(y ~ a * (t + I(t^2)) + (1 | g)),
  poly = reml(y ~ b * poly(t, 2) + (1 | g)), logt = reml(y ~ b * log(t) + (1 | g)), spline = reml(y ~ b + bs(t, df = 5) + (1 | g)),
  binary = reml(y ~ a + b * k + (1 | g)), logy = reml(log(pos) ~ a + b + t + (1 | g)), offset = reml(y ~ a + offset(log(t)) + (1 | g)),
  weights = reml(y ~ a + b + (1 | g), weights = w), ml = reml(y ~ a * b + (1 | g), REML = FALSE), empty = reml(y ~ a * b + (1 | g), "kept"),
  oats = reml(y ~ variety * n + (1 | block / variety), "oats"), oats_lost = reml(y ~ variety * n + (1 | block / variety), "oats_kept"))
modes <- c("kenward-roger" = "kenward-roger", satterthwaite = "satterthwaite", asymptotic = "asymptotic")

cases <- list()
numbers <- function(s) {
  s <- as.data.frame(s)
  s$t <- NULL  # the covariate
  names(s) <- sub("asymp.LCL", "lower", sub("asymp.UCL", "upper", sub("lower.CL", "lower", sub("upper.CL", "upper", names(s)))))
  names(s) <- sub("[tz].ratio", "t", sub("p.value", "p", sub("SE", "se", names(s))))
  names(s)[grepl("^emmean$|^response$|trend$|^ratio$", names(s))] <- "estimate"
  keep <- intersect(c("estimate", "se", "df", "t", "p", "lower", "upper"), names(s))
  lapply(s[keep], function(v) ifelse(is.infinite(v), 1e300, signif(v, 10)))
}
add <- function(call, fit, df, arguments, table) cases[[length(cases) + 1]] <<-
  list(call = call, fit = fit, df = df, arguments = arguments, numbers = numbers(table))
grid_of <- function(fit, df, at) if (length(at)) ref_grid(fits[[fit]], mode = df, at = at) else ref_grid(fits[[fit]], mode = df)
mean_of <- function(fit, df, of, by = NULL, at = list(), weights = "equal")
  emmeans(grid_of(fit, df, at), of, by = by, weights = weights)
means <- function(fit, df, of, by = NULL, at = list(), weights = "equal", type = "link") {
  scale <- if (type == "link") "link" else "response"
  add("means", fit, df, list(of = I(of), by = I(as.character(by)), at = at, weights = weights, scale = scale),
    summary(mean_of(fit, df, of, by, at, weights), infer = c(TRUE, FALSE), type = type))
}
contrasts_of <- function(fit, df, of, kind, adjust, by = NULL, type = "link") {
  found <- contrast(mean_of(fit, df, of, by), c(pairwise = "pairwise", polynomial = "poly", control = "trt.vs.ctrl", sequential = "consec")[[kind]])
  add("contrasts", fit, df, list(of = I(of), by = I(as.character(by)), kind = kind, adjust = sub("fdr", "bh", adjust),
    scale = type), summary(found, infer = c(TRUE, TRUE), adjust = adjust, type = type))
}
slopes <- function(fit, df, of, by = character(), at = list()) {  # emtrends differences forwards
  over <- if (length(by)) by else ~1
  found <- do.call(emtrends, c(list(fits[[fit]], over, var = of, mode = df, delta.var = 1e-7), if (length(at)) list(at = at)))
  add("slopes", fit, df, list(of = of, by = I(as.character(by)), at = at), summary(found, infer = c(TRUE, FALSE)))
}
for (df in names(modes)) for (fit in c("two", "sum")) {
  means(fit, df, "a"); means(fit, df, "a", "b")
  for (adjust in c("tukey", "sidak", "holm", "bonferroni", "fdr", "none")) contrasts_of(fit, df, "a", "pairwise", adjust)
  if (fit == "two") contrasts_of(fit, df, "a", "pairwise", "tukey", "b")
  contrasts_of(fit, df, "a", "polynomial", "none")
}
contrasts_of("two", "satterthwaite", c("a", "b"), "pairwise", "tukey")  # the first varies fastest
for (w in c("equal", "proportional", "cells")) { means("three", "kenward-roger", "b", "c", weights = w); means("two", "kenward-roger", "a", weights = w); means("weights", "satterthwaite", "a", weights = w) }
means("slope", "kenward-roger", "a"); means("slope", "satterthwaite", "t", "a", at = list(t = c(0, 5))); means("square", "kenward-roger", "a")
means("square", "kenward-roger", "a", at = list(t = 2)); means("poly", "kenward-roger", "b"); means("logt", "kenward-roger", "b"); means("spline", "kenward-roger", "t", "b", at = list(t = c(2, 8)))
means("binary", "kenward-roger", "a"); means("binary", "kenward-roger", "b", "k"); means("offset", "kenward-roger", "a"); means("ml", "satterthwaite", "a", "b")
means("logy", "kenward-roger", "a", type = "response"); contrasts_of("logy", "kenward-roger", "a", "pairwise", "tukey", type = "response")
means("empty", "kenward-roger", "a", "b"); means("empty", "kenward-roger", "a"); means("empty", "kenward-roger", "a", weights = "cells")
for (df in c("kenward-roger", "satterthwaite")) for (fit in c("oats", "oats_lost")) {
  means(fit, df, "variety", "n"); contrasts_of(fit, df, "variety", "pairwise", "tukey", "n"); contrasts_of(fit, df, "n", "polynomial", "none") }
for (df in names(modes)) slopes("slope", df, "t", "a")
slopes("square", "kenward-roger", "t", "a"); slopes("square", "kenward-roger", "t", "a", list(t = 2)); slopes("poly", "kenward-roger", "t", "b")
slopes("logt", "kenward-roger", "t", "b"); slopes("spline", "kenward-roger", "t", at = list(t = 3.3)); slopes("three", "kenward-roger", "t")
writeLines(toJSON(list(source = "make_means.R: R 4.2.2, lme4 1.1-31, lmerTest 3.1-3, pbkrtest 0.5.2, emmeans 1.8.4-1", data = d, empty = empty - 1,
  lost = lost - 1, oats = oats, cases = cases), digits = NA, na = "null", dataframe = "columns", auto_unbox = TRUE), "means.json")
