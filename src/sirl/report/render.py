"""`report.html`: one self-contained file, for a reader who decides whether to trust a hardened model.

It makes no request of any kind: style, script and drawings stand in the file, and a content security policy of hashes
forbids everything else. All text of models, prompts and configurations is escaped by Jinja, and its control characters
are made visible on the way out (`_finalize`), so that a template cannot forget it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sirl.records import write_text
from sirl.report import sections
from sirl.report.adversarial_benign import wrapped_section
from sirl.report.assessment import STATUS_NAMES, assess_run
from sirl.report.attack_sections import attack_section
from sirl.report.capability import capability_facts
from sirl.report.charts import element, join_markup, percent
from sirl.report.conversations import conversation_section
from sirl.report.glance import about, glance
from sirl.report.prices import asked_by_eval
from sirl.report.samples import ENTROPY_BOUNDS, Shown, Span, visible
from sirl.report.training import benign_name, reward_name
from sirl.report.truncated import truncation_rows
from sirl.report.wording import KIND_NAMES, count, factor, p_value, with_interval
from sirl.results.load import Run, load_run
from sirl.results.summary import results_of
from sirl.run_folder import REPORT

HERE = Path(__file__).parent
SCRIPT = "".join((HERE / name).read_text(encoding="utf-8") for name in ("report.js", "tables.js"))


def render_report(run_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run folder (default: `report.html` in it) and return its path.

    Stages that were not run are named as such. The same folder gives the same file, byte for byte, but for its date.

    Raises:
        UserError: there is no such folder, or a file in it cannot be read.
    """
    run = load_run(run_dir)
    target = Path(out) if out is not None else run.path / REPORT
    write_text(target, render_html(run))
    return target


def render_html(run: Run) -> str:
    """The report of a run as HTML."""
    return environment().get_template("template.html.j2").render(**context(run)).strip() + "\n"


def environment(*folders: Path) -> Environment:
    """What the templates of some folders, and of this one, are rendered by: every value is escaped."""
    made = Environment(
        loader=FileSystemLoader([*folders, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(percent=percent, with_interval=with_interval, p=p_value, factor=factor, counted=count)
    made.filters["spans"] = spans_html
    return made


def _finalize(value: Any) -> Any:
    """Every value on its way into the page; `Markup` was made, and escaped, by this package."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def context(run: Run) -> dict[str, Any]:
    """All that the template needs."""
    results = results_of(run)
    benign, wrapped = sections.benign_section(results.benign), wrapped_section(results.wrapped)
    return {
        "results": results,
        "manifest": run.manifest or {},
        "run_name": results.run,
        "model_name": sections.model_name(run.manifest),
        "verdict": assess_run(results, run.manifest),
        "status_names": STATUS_NAMES,
        "kind_names": KIND_NAMES,
        "attack": attack_section(results.attack),
        "truncation": truncation_rows(results.truncation),
        "benign": benign,
        "wrapped": wrapped,
        "about": about(results, run.manifest, sections.model_name(run.manifest)),
        "glance": glance(results, benign, wrapped),
        "asked": sections.benign_section(asked_by_eval(results), linked=False),
        "asked_name": benign_name(run.manifest, "eval"),
        "capability": capability_facts(results.capability),
        "gap": sections.gap_section(run.gap, run.gap_samples),
        "curves": sections.training_section(run.metrics, reward_name(run.manifest)),
        "development": sections.development_section(run.development, run.chosen),
        "conversations": conversation_section(run),
        "legend": legend(),
        "facts": sections.method_facts(run, results),
        "limits": sections.limits(run, results),
        "config": flatten((run.manifest or {}).get("config") or {}),
        "provenance": sections.provenance(run.manifest),
        **frame(),
    }


def frame() -> dict[str, Any]:
    """What every page needs: style, script, the policy that allows these two alone, and the date."""
    css = Markup((HERE / "report.css").read_text(encoding="utf-8"))
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "css": css,
        "script": Markup(SCRIPT),
        "policy": _policy(css, SCRIPT),
    }


def _policy(css: str, script: str) -> str:
    """A content security policy that allows this style and this script, by their hashes, and nothing else."""
    own = f"style-src '{_hash(css)}'; script-src '{_hash(script)}'"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted keys and their values as text, in order."""
    out: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            out += flatten(item, f"{name}.")
        else:
            out.append((name, item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)))
    return out


def spans_html(shown: Shown) -> Markup:
    """A response with each token shaded by its entropy."""
    return join_markup([_span_html(span) for span in shown.spans])


def _span_html(span: Span) -> Markup:
    special = " special" if span.special else ""
    if span.entropy is None:
        return element("span", span.text, class_="t" + special)
    return element("span", span.text, class_=f"t e{span.level}{special}", title=f"{span.entropy:.2f} nats")


def legend() -> list[tuple[int, str]]:
    """Shading levels and the entropies (nats) that they stand for."""
    bounds = ["0", *(f"{b:g}" for b in ENTROPY_BOUNDS)]
    ranges = [f"{a}–{b}" for a, b in pairwise(bounds)] + [f"over {bounds[-1]}"]
    return list(enumerate(ranges))


__all__ = ["render_html", "render_report"]
