# anova() of lmerTest on the models of tests/test_ftests.py: python ftests_data.py table.csv && Rscript make_ftests.R table.csv out.json
library(lmerTest)
arguments <- commandArgs(trailingOnly = TRUE)
d <- read.csv(arguments[1], stringsAsFactors = TRUE)
cake <- lme4::cake
oats <- MASS::oats
machines <- as.data.frame(nlme::Machines)
machines$Worker <- factor(as.character(machines$Worker))
tables <- list(
  table = d, no_ar = droplevels(subset(d, !(a == "a" & b == "r"))), no_cp = droplevels(subset(d, !(a == "c" & b == "p"))),
  no_ap = droplevels(subset(d, !(a == "a" & b == "p"))), cake = cake, oats = oats, machines = machines)
models <- list(
  two_factors = list("table", y ~ a * b + (1 | g)),
  two_factors_sum = list("table", y ~ a * b + (1 | g), contrasts = list(a = "contr.sum", b = "contr.helmert")),
  covariate = list("table", y ~ a * x + (1 | g)),
  covariate_sum = list("table", y ~ x + a + a:x + c + (1 | g), contrasts = list(a = "contr.sum")),
  three_way = list("table", y ~ a * b * c + (1 | g)),
  three_way_covariate = list("table", y ~ a * c * x + (1 | g) + (1 | h), contrasts = list(a = "contr.poly")),
  crossed = list("table", y ~ a + b + c:x + (1 | g) + (1 | h), contrasts = list(b = "contr.sum")),
  no_intercept = list("table", y ~ 0 + a + b + x + (1 | g)),
  nested_only = list("table", y ~ a + a:b + (1 | g)),
  cells_only = list("table", y ~ a:c + (1 | g)),
  weighted = list("table", y ~ a * c + log(w) + (1 | g), weights = TRUE),
  polynomial = list("table", y ~ poly(x, 2) + a * c + (1 | g)),
  empty_cell = list("no_ar", y ~ a * b + (1 | g)),
  empty_cell_sum = list("no_cp", y ~ a * b + x + (1 | g), contrasts = list(a = "contr.sum", b = "contr.sum")),
  empty_first_cell = list("no_ap", y ~ b * a + (1 | h)),
  slopes = list("table", y ~ x * c + (x | g)),
  cake = list("cake", angle ~ recipe * temperature + (1 | recipe:replicate)),
  split_plot = list("oats", Y ~ N * V + (1 | B / V)),
  machines = list("machines", score ~ Machine + (Machine | Worker)))
shown <- function(table) list(term = rownames(table), values = unname(as.matrix(table)))
out <- lapply(models, function(m) {
  data <- tables[[m[[1]]]]
  if (!is.null(m$weights)) data$weight <- data$w
  exact <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-12))
  fit <- suppressMessages(if (is.null(m$weights)) lmer(m[[2]], data, contrasts = m$contrasts, control = exact)
    else lmer(m[[2]], data, weights = weight, contrasts = m$contrasts, control = exact))
  tests <- list(data = m[[1]], formula = deparse1(m[[2]]), contrasts = m$contrasts, singular = isSingular(fit))
  for (type in 1:3) for (ddf in c("Satterthwaite", "Kenward-Roger"))
    tests[[paste(tolower(ddf), type)]] <- suppressMessages(shown(anova(fit, type = type, ddf = ddf)))
  tests
})
jsonlite::write_json(out, arguments[2], digits = 12, auto_unbox = TRUE, pretty = FALSE)
