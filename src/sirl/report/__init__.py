"""The report of a run: what its files add up to, and a page for the reader who decides whether to trust the model."""

from sirl.report.aggregate import build_summary, summarise_run
from sirl.report.render import render_report

__all__ = ["build_summary", "render_report", "summarise_run"]
