# Rscript lme4.R TABLE.csv FORMULA REML|ML MOST_SECONDS fresh|warm
# One line of JSON: seconds of every call of lmer(), the log-likelihood, versions.
started <- Sys.time()
suppressMessages(library(lme4))
given <- commandArgs(trailingOnly = TRUE)
model <- as.formula(given[2])
data <- read.csv(given[1])
groups <- unique(unlist(lapply(findbars(model), function(bar) all.vars(bar[[3]]))))
data[groups] <- lapply(data[groups], factor)

if (given[5] == "warm") started <- Sys.time()
fit <- lmer(model, data, REML = given[3] == "REML")
seconds <- as.numeric(Sys.time() - started, units = "secs")

if (given[5] == "warm" && 2.5 * seconds < as.numeric(given[4])) {
  calls <- if (seconds > 2) 1 else if (seconds > 0.1) 5 else 20
  for (call in seq_len(calls)) {
    started <- Sys.time()
    fit <- lmer(model, data, REML = given[3] == "REML")
    seconds <- c(seconds, as.numeric(Sys.time() - started, units = "secs"))
  }
}
cat(sprintf('{"seconds": [%s], "loglik": %.10f, "version": "%s"}\n',
            paste(signif(seconds, 6), collapse = ", "), as.numeric(logLik(fit)), packageVersion("lme4")))
