# Rscript lme4.R TABLE.csv FORMULA REML|ML|Laplace MOST_SECONDS fresh|warm lme4|glmmTMB [FAMILY]
# One line of JSON: seconds and processor seconds of every call of lmer(), glmer() or glmmTMB(), the log-likelihood, versions.
started <- Sys.time()
given <- commandArgs(trailingOnly = TRUE)
suppressMessages(library(lme4))
if (given[6] == "glmmTMB") suppressMessages(library(glmmTMB))
model <- as.formula(given[2])
data <- read.csv(given[1])
groups <- unique(unlist(lapply(findbars(model), function(bar) all.vars(bar[[3]]))))
data[groups] <- lapply(data[groups], factor)
family <- switch(if (is.na(given[7])) "" else given[7], bernoulli = binomial(), poisson = poisson(), NULL)

fit_once <- function() {
  if (given[6] == "glmmTMB") return(glmmTMB(model, data, family = family))
  if (is.null(family)) lmer(model, data, REML = given[3] == "REML") else glmer(model, data, family = family)
}
timed <- function() {
  busy <- proc.time()
  fit <<- fit_once()
  taken <- proc.time() - busy
  c(taken[["elapsed"]], taken[["user.self"]] + taken[["sys.self"]])
}

calls <- list(suppressWarnings(timed()))
if (given[5] == "fresh") calls[[1]][1] <- as.numeric(Sys.time() - started, units = "secs")
first <- calls[[1]][1]
if (given[5] == "warm" && 2.5 * first < as.numeric(given[4])) {
  more <- if (first > 2) 1 else if (first > 0.1) 5 else 20
  for (call in seq_len(more)) calls <- c(calls, list(suppressWarnings(timed())))
}
# glmmTMB withholds its log-likelihood where a variance is 0.
loglik <- if (given[6] == "glmmTMB") -fit$fit$objective else as.numeric(logLik(fit))
listed <- function(at) paste(signif(vapply(calls, `[[`, 0, at), 6), collapse = ", ")
cat(sprintf('{"seconds": [%s], "cpu": [%s], "loglik": %.10f, "version": "%s"}\n', listed(1), listed(2), loglik,
            packageVersion(given[6])))
