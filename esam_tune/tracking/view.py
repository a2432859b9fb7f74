"""What a study's runs say beyond single events, as the study's own room derives it."""

from typing import Protocol

from esam_tune.journal import Event


class View(Protocol):
    """A study as far as its events have been read."""

    def apply(self, event: Event) -> None:
        """Take the journal's next event in."""

    def description(self) -> str:
        """The study for people, in Markdown: question, progress, front, choice."""

    def marks(self) -> dict[str, dict[str, str]]:
        """Trial id -> tags that may change while the study goes on: ``pareto``, ``chosen``.

        A trial, or a tag of it, that is missing has none.
        """

    def spread(self, trial_id: str) -> tuple[int, dict[str, float]] | None:
        """How a trial's seeds differ: their count, and mean and standard error by metric key.

        None with fewer than two finished seeds, or while one is still running.
        """
