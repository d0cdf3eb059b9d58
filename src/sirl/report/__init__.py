"""The report of a run: a page for the reader who decides whether to trust the model."""

from sirl.report.render import render_report
from sirl.results.summary import build_summary, summarise_run

__all__ = ["build_summary", "render_report", "summarise_run"]
