"""The report of a grading: a table for spreadsheets, a page to read."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from jinja2 import Environment

from personalab.course.grading import Graded, Run
from personalab.files import write

COLUMNS = ("student", "submission", "section", "exercise", "points", "of", "comment", "notebook_points", "notebook_of")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Grades</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .2rem .8rem; text-align: left; }
tr:nth-child(even) { background: #f3f3f3; } pre { white-space: pre-wrap; margin: .2rem 0 .8rem; }
</style></head><body>
<h1>Grades</h1>
<p>{{ run.graded | length }} notebooks. Hidden cases: {% for s, d in run.draws.items() %}section {{ s }} by draw
{{ d }}{{ ", " if not loop.last }}{% endfor %}. Submissions ran under: {{ run.protection }}.</p>
<table><tr><th>student</th><th>notebook</th><th>section</th><th>points</th></tr>
{% for g in run.graded %}<tr><td>{{ g.student }}</td><td><a href="#n{{ loop.index }}">{{ g.path }}</a></td>
<td>{{ g.section or "?" }}</td><td>{{ g.reached }} of {{ g.possible }}</td></tr>
{% endfor %}</table>
{% for g in run.graded %}<h2 id="n{{ loop.index }}">{{ g.path }}: {{ g.reached }} of {{ g.possible }}</h2>
{% if g.remark %}<p>{{ g.remark }}</p>{% endif %}
{% for name, (got, of) in g.points.items() %}<p><b>{{ name }}</b>: {{ got }} of {{ of }}</p>
{% if g.comments.get(name) %}<pre>{{ g.comments[name] }}</pre>{% endif %}{% endfor %}{% endfor %}
</body></html>
"""


def write_csv(run: Run, path: Path) -> None:
    """A row for each exercise of each notebook; a notebook that could not be read has one without an exercise."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(COLUMNS)
    for graded in run.graded:
        for name, (points, of) in graded.points.items() or [("", (0, 0))]:
            comment = graded.remark or graded.comments.get(name, "")
            row = [graded.student, graded.path, graded.section, name, points, of, comment]
            table.writerow([_text(cell) for cell in (*row, graded.reached, graded.possible)])
    write(path, out.getvalue())


def _text(cell: object) -> object:
    """A text that no spreadsheet takes for a formula: what comes from learners must not compute there."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" and cell else cell


def write_html(run: Run, path: Path) -> None:
    """Totals, then what each grader says; whatever learners wrote is shown as text."""
    page = Environment(autoescape=True).from_string(_PAGE).render(run=run)
    write(path, page)


def summary(graded: list[Graded]) -> str:
    """One line for the terminal."""
    reached, possible = sum(g.reached for g in graded), sum(g.possible for g in graded)
    remarks = sum(bool(g.remark) for g in graded)
    return f"{len(graded)} notebooks, {reached} of {possible} points; {remarks} could not be graded."
