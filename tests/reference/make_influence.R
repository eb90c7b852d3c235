# Hat values, Cook's distances, DFBETAs and rePCA of lme4: Rscript make_influence.R writes influence.json beside itself
suppressMessages({library(lme4);library(jsonlite)})
ctl <- lmerControl(optimizer="bobyqa",optCtrl=list(rhoend=1e-10,maxfun=1e5),check.conv.singular="ignore")
d <- sleepstudy[-c(1:5,60:70,121:124),]
f <- lmer(Reaction~Days+(Days|Subject),d,control=ctl)
inf <- influence(f,"Subject")
out <- list(source="lme4 1.1-31, R 4.2.2",
 unbalanced=list(rows_left_out=c(0:4,59:69,120:123),formula="Reaction ~ Days + (Days | Subject)",hatvalues=unname(hatvalues(f)),
  cooks=unname(cooks.distance(inf)),dfbetas=unname(dfbetas(inf)),repca=rePCA(f)$Subject$sdev))
p <- lmer(diameter~1+(1|plate)+(1|sample),Penicillin,control=ctl)
out$penicillin <- list(hatvalues=unname(hatvalues(p)),cooks_sample=unname(cooks.distance(influence(p,"sample"))))
o <- lmer(strength~1+(1|batch/cask),Pastes,control=ctl)
out$pastes <- list(hatvalues=unname(hatvalues(o)))
s <- lmer(Reaction~Days+(Days|Subject),sleepstudy[sleepstudy$Subject %in% c("308","309","310","330","331"),],control=ctl)
out$five <- list(repca=rePCA(s)$Subject$sdev, theta=getME(s,"theta"), rotation=rePCA(s)$Subject$rotation)
write(toJSON(out,digits=12,auto_unbox=TRUE),"influence.json")
