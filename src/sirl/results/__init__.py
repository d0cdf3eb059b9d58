"""What the files of a run folder add up to: rates, intervals, changes and the summary. `report` tells it."""

from sirl.results.summary import build_summary, results_of, summarise_run, summary_of

__all__ = ["build_summary", "results_of", "summarise_run", "summary_of"]
