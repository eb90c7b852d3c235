"""Two stages, coefficients and what they depend on, as one formula and as mathematics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bayeslmm.errors import SpecificationError

_OPTIONS = ("mean", "random")


@dataclass(frozen=True, slots=True)
class Equation:
    """How one coefficient of the first stage varies over one group.

    Attributes
    ----------
    coefficient : str
        A term of the first stage; ``"1"`` is its intercept.
    predictors : tuple of str
        Terms that are constant within the group; ``"1"`` is the coefficient's mean.
    random : bool
        Whether the coefficient has a random deviation per level of the group.
    """

    coefficient: str
    predictors: tuple[str, ...]
    random: bool = True

    def as_text(self) -> str | dict[str, Any]:
        """Return the right side as text, with the option beside it if there is no random deviation."""
        mean = " + ".join(self.predictors if "1" in self.predictors else ("0", *self.predictors))
        return mean if self.random else {"mean": mean, "random": False}


@dataclass(frozen=True, slots=True)
class Level:
    """The second stage over one group: an equation per coefficient, and whether the deviations are correlated."""

    group: str
    equations: tuple[Equation, ...]
    correlated: bool = True

    @property
    def varying(self) -> tuple[str, ...]:
        """Coefficients with a random deviation, in the order of the first stage."""
        return tuple(equation.coefficient for equation in self.equations if equation.random)

    def as_text(self) -> dict[str, Any]:
        """Return coefficient -> predictors, as `Stages.read` takes them."""
        text: dict[str, Any] = {equation.coefficient: equation.as_text() for equation in self.equations}
        return text if self.correlated else {**text, "correlated": False}


@dataclass(frozen=True, slots=True)
class Stages:
    """A linear mixed model as its two stages.

    Stage one is a regression within groups, ``y_ij = b0_j + b1_j x_ij + e_ij``; stage two says how its coefficients
    vary over the groups, ``b1_j = γ10 + γ11 z_j + u1_j``. Putting the second into the first gives the mixed model
    formula. Build one with `Stages.read`; ``print`` shows both stages.

    Attributes
    ----------
    response : str
        Left side of the first stage.
    coefficients : tuple of str
        Terms of the first stage, the intercept as ``"1"``.
    offsets : tuple of str
        Its ``offset(...)`` terms, which have no coefficient.
    levels : tuple of Level
        The second stage, one entry per group.

    Examples
    --------
    >>> from bayeslmm.stages import Stages
    >>> stages = Stages.read("score ~ 1 + ses", {"school": {"1": "1 + sector", "ses": "1"}})
    >>> stages.formula()
    'score ~ 1 + ses + sector + (1 + ses | school)'
    >>> print(stages)
    Level 1, row i
      score_ij = b0_j + b1_j ses_ij + e_ij,  e_ij ~ N(0, σ²)
    Level 2, school j
      b0_j = γ00 + γ01 sector_j + u0_j
      b1_j = γ10 + u1_j
      (u0_j, u1_j) ~ N(0, Σ_u), Σ_u unstructured
    """

    response: str
    coefficients: tuple[str, ...]
    offsets: tuple[str, ...]
    levels: tuple[Level, ...]

    @classmethod
    def read(cls, first: str, second: Mapping[str, Mapping[str, Any]]) -> Stages:
        """Read the two stages from text.

        Parameters
        ----------
        first : str
            Formula of the first stage without random terms, such as ``"score ~ 1 + ses"``.
        second : mapping
            Group -> coefficient of the first stage -> its predictors, such as ``{"school": {"1": "1 + sector"}}``.
            ``{"mean": "1 + sector", "random": False}`` in place of the text leaves out the random deviation, and
            ``"correlated": False`` beside the coefficients makes the deviations of that group independent.
            A coefficient that no group names is the same for all groups.

        Returns
        -------
        Stages

        Raises
        ------
        SpecificationError
            If a stage cannot be read, or the second names a coefficient that the first does not have.
        """
        response, terms = _sides(first)
        offsets = tuple(term for term in terms if term.startswith("offset("))
        coefficients = _with_intercept([term for term in terms if term not in offsets])
        if not isinstance(second, Mapping):
            raise SpecificationError(f"The second stage must map groups to coefficients; got {second!r}.")
        levels = tuple(_level(group, given, coefficients) for group, given in second.items())
        return cls(response, coefficients, offsets, levels)

    def formula(self) -> str:
        """Return the mixed model formula that the two stages amount to."""
        varied = {equation.coefficient for _, equation in self._equations()}
        means = {c for c in self.coefficients if c not in varied}
        means |= {equation.coefficient for _, equation in self._equations() if "1" in equation.predictors}
        fixed = [c for c in self.coefficients if c in means]
        for coefficient in self.coefficients:
            predictors = [p for _, e in self._equations(coefficient) for p in e.predictors if p != "1"]
            fixed += [p if coefficient == "1" else f"{coefficient}:{p}" for p in predictors]
        head = fixed if "1" in means else ["0", *fixed]
        random = [_random_term(level) for level in self.levels if level.varying]
        return f"{self.response} ~ {' + '.join([*dict.fromkeys(head), *self.offsets, *random])}"

    def as_text(self) -> dict[str, Any]:
        """Return the two stages as the text that `read` takes, under the keys ``first`` and ``second``."""
        first = self.coefficients if "1" in self.coefficients else ("0", *self.coefficients)
        second: dict[str, Any] = {level.group: level.as_text() for level in self.levels}
        return {"first": f"{self.response} ~ {' + '.join((*first, *self.offsets))}", "second": second}

    def __str__(self) -> str:
        """Both stages in mathematics, a line per equation."""
        lines = ["Level 1, row i", f"  {self._first_stage()}"]
        for number, level in enumerate(self.levels):
            lines.append(f"Level 2, {level.group} {_index(number)}")
            lines += [f"  {line}" for line in self._second_stage(number, level)]
        return "\n".join(lines + self._constants())

    def _equations(self, coefficient: str | None = None) -> Iterator[tuple[int, Equation]]:
        for number, level in enumerate(self.levels):
            for equation in level.equations:
                if coefficient in (None, equation.coefficient):
                    yield number, equation

    def _symbol(self, coefficient: str) -> str:
        indices = "".join(_index(number) for number, _ in self._equations(coefficient))
        return f"b{self.coefficients.index(coefficient)}" + (f"_{indices}" if indices else "")

    def _first_stage(self) -> str:
        rows = "i" + "".join(_index(number) for number in range(len(self.levels)))
        terms = [self._symbol(c) + ("" if c == "1" else f" {c}_{rows}") for c in self.coefficients]
        terms += [f"{offset}_{rows}" for offset in self.offsets]
        return f"{self.response}_{rows} = {' + '.join([*terms, f'e_{rows}'])},  e_{rows} ~ N(0, σ²)"

    def _second_stage(self, number: int, level: Level) -> Iterator[str]:
        for equation in level.equations:
            if next(self._equations(equation.coefficient))[0] == number:
                yield f"{self._symbol(equation.coefficient)} = {' + '.join(self._right_side(equation.coefficient))}"
        deviations = [_deviation(number, self.coefficients.index(c)) for c in level.varying]
        if not deviations:
            return
        covariance = f"Σ_{_letter(number)}"
        shape = "unstructured" if level.correlated else "diagonal"
        if len(deviations) == 1:
            yield f"{deviations[0]} ~ N(0, σ²_{_letter(number)})"
        else:
            yield f"({', '.join(deviations)}) ~ N(0, {covariance}), {covariance} {shape}"

    def _right_side(self, coefficient: str) -> list[str]:
        row = self.coefficients.index(coefficient)
        equations = list(self._equations(coefficient))
        has_mean = any("1" in equation.predictors for _, equation in equations)
        predictors = dict.fromkeys((p, n) for n, e in equations for p in e.predictors if p != "1")
        fixed = [f"γ{row}0"] if has_mean else []
        fixed += [f"γ{row}{k} {p}_{_index(n)}" for k, (p, n) in enumerate(predictors, start=1)]
        return (fixed + [_deviation(n, row) for n, e in equations if e.random]) or ["0"]

    def _constants(self) -> list[str]:
        constant = [c for c in self.coefficients if not any(self._equations(c))]
        rows = [self.coefficients.index(c) for c in constant]
        return ["The same for every group", *(f"  b{row} = γ{row}0" for row in rows)] if rows and self.levels else []


def from_stages(first: str, second: Mapping[str, Mapping[str, Any]]) -> str:
    """Write two stages as one mixed model formula.

    Parameters
    ----------
    first, second
        As in `Stages.read`.

    Returns
    -------
    str
        The formula; each group contributes its predictors, their products with the coefficient's variable, and one
        random term.

    Raises
    ------
    SpecificationError
        If a stage cannot be read.

    Examples
    --------
    >>> from bayeslmm.stages import from_stages
    >>> from_stages("score ~ 1 + ses", {"school": {"1": "1 + sector", "ses": "1 + sector"}})
    'score ~ 1 + ses + sector + ses:sector + (1 + ses | school)'
    """
    return Stages.read(first, second).formula()


def _sides(first: str) -> tuple[str, list[str]]:
    if not isinstance(first, str) or first.count("~") != 1:
        raise SpecificationError(f"The first stage must be a formula such as 'score ~ 1 + ses'; got {first!r}.")
    response, right = (side.strip() for side in first.split("~"))
    if not response:
        raise SpecificationError(f"The first stage has no response on the left of '~': {first!r}.")
    return response, _split_terms(right, first)


def _split_terms(text: str, shown: str) -> list[str]:
    """Split a sum of terms at its top-level plus signs, refusing what would need expanding."""
    terms, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            break
        if depth == 0 and character == "+":
            terms.append(text[start:position])
            start = position + 1
        elif depth == 0 and character in "*/^-|~%":
            raise SpecificationError(
                f"'{character}' cannot join the terms of a stage; write them out with '+' and ':': {shown!r}."
            )
    if depth != 0:
        raise SpecificationError(f"The brackets do not match in {shown!r}.")
    terms = [" ".join(term.split()) for term in (*terms, text[start:])]
    if not all(terms):
        raise SpecificationError(f"A term is missing beside a '+' in {shown!r}; write '1' for the mean alone.")
    return list(dict.fromkeys("1" if term == "Intercept" else term for term in terms))


def _with_intercept(terms: Sequence[str]) -> tuple[str, ...]:
    kept = [term for term in terms if term not in ("0", "1")]
    return tuple(kept if "0" in terms else ["1", *kept])


def _level(group: str, given: Mapping[str, Any], coefficients: Sequence[str]) -> Level:
    if not isinstance(group, str):
        raise SpecificationError(f"The name of a group must be text; got {group!r}.")
    if "/" in group or "|" in group:
        raise SpecificationError(f"Group {group!r}: give each group its own entry, nested ones as 'class:school'.")
    if not isinstance(given, Mapping):
        raise SpecificationError(f"Group {group!r}: give a table of coefficients such as {{'1': '1'}}; got {given!r}.")
    given = {("1" if name == "Intercept" else name): value for name, value in given.items()}
    correlated = given.pop("correlated", True) if isinstance(given.get("correlated"), bool) else True
    unknown = [name for name in given if name not in coefficients]
    if not given:
        raise SpecificationError(
            f"Group {group!r} has no coefficient; name those that vary over it, such as {{'1': '1'}}."
        )
    if unknown:
        raise SpecificationError(
            f"Group {group!r}: {unknown[0]!r} is no coefficient of the first stage; it has {', '.join(coefficients)}."
        )
    equations = tuple(_equation(group, c, given[c]) for c in coefficients if c in given)
    return Level(group, equations, correlated)


def _equation(group: str, coefficient: str, given: Any) -> Equation:
    where = f"second stage, group {group!r}, coefficient {coefficient!r}"
    options: Any = {"mean": given} if isinstance(given, str) else given
    if not isinstance(options, Mapping) or not isinstance(options.get("mean", "1"), str):
        raise SpecificationError(f"{where}: give its predictors as text, such as '1 + sector'; got {given!r}.")
    if set(options) - set(_OPTIONS) or not isinstance(options.get("random", True), bool):
        raise SpecificationError(f"{where}: the options are mean (text) and random (true or false); got {given!r}.")
    mean = options.get("mean", "1")
    terms = _split_terms(mean, mean) if mean.strip() else ["1"]
    if any(term.startswith("offset(") for term in terms):
        raise SpecificationError(f"{where}: an offset belongs to the first stage.")
    return Equation(coefficient, _with_intercept(terms), options.get("random", True))


def _random_term(level: Level) -> str:
    effects = level.varying if level.varying[0] == "1" else ("0", *level.varying)
    bar = "||" if len(level.varying) > 1 and not level.correlated else "|"
    return f"({' + '.join(effects)} {bar} {level.group})"


def _index(number: int) -> str:
    """Return the index letter of a group, from j on."""
    return "jklmnpqrstxyz"[number] if number < 13 else f"j{number}"


def _letter(number: int) -> str:
    return "uvw"[number] if number < 3 else f"u{number + 1}"


def _deviation(number: int, row: int) -> str:
    return f"{_letter(number)}{row}_{_index(number)}"
