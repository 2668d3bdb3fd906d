"""The governance report and the model card as documents: JSON, one HTML page, Markdown. Pure, but for `write`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from modelyard.core.canonical import dumps, plain

NOTE = (
    "Each control is proved (by events in this store, with their digests), attested (by a named person), missing or "
    "not applicable. Whether a law is met is for a person to say; this report does not say it."
)
ASSESSED = ("framework", "compliance_score", "assessed_at", "assessed_by")
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1d2733}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{border:1px solid #cdd5df;padding:.35rem .6rem;"
    "text-align:left;vertical-align:top}th{background:#f2f5f9}code{font-size:.85em;word-break:break-all}"
    ".proved{color:#0b6b3a}.attested{color:#1e5aa8}.missing{color:#b3261e}"
)


def as_json(report: Mapping[str, Any]) -> str:
    """The report as indented JSON."""
    return dumps(report, indent=2) + "\n"


def as_html(report: Mapping[str, Any]) -> str:
    """The report as one page without external resources."""
    shown = plain(report)
    evidence = [
        _section(
            f"Evidence: {name}", _table(rows, ("control", "status", "statement", "person", "at", "event_id", "digest"))
        )
        for name, rows in shown["evidence"].items()
    ]
    bias = [{**row, "interval": _span(row["interval"])} for row in shown["bias_reports"]]
    columns = ("assessed_at", "attribute", "bias_type", "verdict", "bias_score", "interval", "threshold", "n", "reason")
    body = "".join(
        [
            f"<h1>Governance report: {escape(shown['model'])}</h1>",
            f"<p>Made {escape(shown['generated_at'])}. {escape(shown['note'])}</p>",
            _section("Differences between groups", _table(bias, columns)),
            _section("Assessments", _table(shown["compliance"], ASSESSED)),
            *evidence,
            _section("Lineage", _table(shown["lineage"]["edges"], ("source", "relation", "target"))),
        ]
    )
    head = f'<meta charset="utf-8"><title>{escape(shown["model"])}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def card(facts: Mapping[str, Any]) -> str:
    """A model card in Markdown from stored facts; what nobody recorded is named as not recorded."""
    shown = plain(facts)
    registered = shown["registered"]
    lines = [
        f"# Model card: {shown['model']}",
        "",
        str(registered.get("description") or "No description recorded."),
        "",
    ]
    lines += _list(
        "Version",
        {
            "registered by": shown["registered_by"],
            "registered at": shown["registered_at"],
            "framework": registered.get("framework"),
            "digest": registered.get("digest"),
            "training algorithm": registered.get("training_algorithm"),
        },
    )
    lines += _list("Measured at training", registered.get("metrics") or {})
    lines += _list("Hyperparameters", registered.get("hyperparameters") or registered.get("parameters") or {})
    lines += ["## Data", ""] + [f"- {_datum(node)}" for node in shown["datasets"]]
    lines += ([] if shown["datasets"] else ["No training data recorded."]) + ["", "## Differences between groups", ""]
    lines += ["| attribute | measure | value | interval | verdict |", "|---|---|---|---|---|"] if shown["bias"] else []
    for row in shown["bias"]:
        values = (
            row["attribute"],
            row["bias_type"],
            _number(row["bias_score"]),
            _span(row["interval"]),
            row["verdict"],
        )
        lines.append("| " + " | ".join(_cell(value) for value in values) + " |")
    lines += ([] if shown["bias"] else ["Not measured."]) + ["", "## Stated by people", ""]
    lines += [
        f"- {row['control']} ({row['framework']}): {row['statement']} ({_person(row)})" for row in shown["stated"]
    ]
    lines += [] if shown["stated"] else ["Intended use, limits and ethical considerations: nothing recorded."]
    return "\n".join(lines) + "\n"


WRITERS = {".json": as_json, "": as_json, ".html": as_html, ".htm": as_html}  # by a file's ending


def _person(stated: Mapping[str, Any]) -> str:
    return f"{stated['attested_by']}, until {stated['expires'][:10]}" if stated["expires"] else stated["attested_by"]


def _list(title: str, values: Mapping[str, Any]) -> list[str]:
    return [
        f"## {title}",
        "",
        *(f"- {key}: {'not recorded' if v in (None, '') else v}" for key, v in values.items()),
        *([] if values else ["Not recorded."]),
        "",
    ]


def _datum(node: Mapping[str, Any]) -> str:
    details = node["details"]
    personal = {True: "contains personal data", False: "no personal data"}.get(
        details.get("contains_pii"), "personal data: not recorded"
    )
    return f"{node['name']}: {details.get('source') or 'source not recorded'}; {personal}"


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>{body}"


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    if not rows:
        return "<p>Nothing recorded.</p>"
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(_field(name, row.get(name)) for name in columns)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _field(name: str, value: Any) -> str:
    text = escape("" if value is None else _number(value) if isinstance(value, float) else str(value))
    mark = f' class="{text}"' if name == "status" else ""
    return f"<td{mark}>{f'<code>{text}</code>' if name in ('digest', 'event_id') else text}</td>"


def _span(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|")
