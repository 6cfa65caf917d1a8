"""One page of HTML for what a study of one model found: numbers, figures, answers; it needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from jinja2 import Environment

from personalab.figures.base import ABOVE, COLOURS, Picture, show
from personalab.measure.outcome import KINDS, Outcome

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ found.title }} · {{ found.model }}</title>
<style>
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 52rem;
  padding: 1.5rem 1rem 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; }
.where, small, caption, dt { color: #555; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem .4rem 0; border-top: 1px solid #ddd; }
td.value, td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
tr.result td { font-weight: 600; }
figure { margin: 1rem 0; overflow-x: auto; }
figure img { display: block; max-width: 100%; min-width: 30rem; height: auto; }
figcaption { color: #555; font-size: .875rem; position: sticky; left: 0; max-width: calc(100vw - 2rem); }
blockquote { margin: .75rem 0; padding: .25rem 0 .25rem .9rem; border-left: 3px solid #ccc; }
blockquote p { white-space: pre-wrap; }
.note { background: #fff6e0; padding: .5rem .8rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; }
dd { margin: 0; }
@media (max-width: 36rem) {
  thead { display: none; }
  tr { display: block; border-top: 1px solid #ddd; padding: .5rem 0; }
  td { display: block; border: 0; padding: 0; }
  td.value { white-space: normal; }
  td.n::before { content: "n = "; }
}
</style>
</head>
<body>
<h1>{{ found.title }}</h1>
<p class="where">{{ found.model }} · {{ found.where }}
{% if found.towards %} · the vector points {{ found.towards }}{% endif %}</p>
<p>{{ found.about }}</p>

<h2>What was measured</h2>
{% for note in found.notes %}<p class="note">{{ note }}</p>
{% endfor %}{% if found.rows %}<table>
<caption>Values with 95 % intervals. A result counts only as far as it beats the baselines and controls beside it.
</caption>
<thead><tr><th>what</th><th>value</th><th>n</th></tr></thead>
<tbody>
{% for row in found.rows %}<tr class="{{ row.kind }}"><td>{{ row.name }}<br><small>{{ row.kind }}: {{ kinds[row.kind]
}}{% if row.verdict %}; {{ row.verdict }}{% endif %}</small></td>
<td class="value">{{ "%.2f"|format(row.value) }}{% if row.ci %} [{{ "%.2f"|format(row.ci.low) }}, {{
"%.2f"|format(row.ci.high) }}]{% endif %}</td><td class="n">{{ row.n }} {{ row.unit }}</td></tr>
{% endfor %}</tbody>
</table>{% endif %}

{% if pictures %}<h2>Figures</h2>
{% for picture in pictures %}<figure><img src="data:image/png;base64,{{ picture.png }}" alt="{{ picture.alt }}">
<figcaption>{{ picture.alt }}</figcaption></figure>
{% endfor %}{% endif %}
{% if found.examples %}<h2>In the model's words</h2>
{% for example in found.examples %}<blockquote><p><small>{{ example.label }}</small></p><p><small>{{ example.asked }}
</small></p><p>{{ example.said }}</p></blockquote>
{% endfor %}{% endif %}
<h2>What it rests on</h2>
<dl>{% for name, value in found.sizes.items() %}<dt>{{ sizes.get(name, name) }}</dt><dd>{{ value }}</dd>
{% endfor %}</dl>
<p><small>Few questions give wide intervals: ask for more before you believe a difference. An interval covers chance in
the questions, not the judge's mistakes: read answers. Made with Persona Lab {{ version }}.</small></p>
</body>
</html>
"""


_SIZES = {  # what `Outcome.sizes` calls them, in plain words
    "pairs": "effective pairs",
    "asked": "pairs that were asked for",
    "tests": "questions to test on",
    "shown": "test answers that show the trait",
    "tokens": "longest answer, in tokens",
    "random": "random vectors",
    "percentile": "where the floor lies, share of the default persona's tokens below it",
    "rows": "rows of data",
    "revision": "the model's revision",
    "dtype": "computed in",
}


def page(found: Outcome, pictures: Sequence[Picture], version: str) -> str:
    """The page; whatever a model, a file or a user wrote is escaped, and it may load nothing from anywhere."""
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(found=found, pictures=pictures, kinds=KINDS, sizes=_SIZES, version=version)


def plot_ranks(ranks: Mapping[str, Float[np.ndarray, "n"]], label: str) -> None:
    """The judge's score of every row of data over its projection difference; rows without a score are left out."""
    x, y = ranks["projection difference"], ranks["judge"]
    fig, ax = plt.subplots(figsize=(7, 4))
    ax.scatter(x, y, s=18, color=COLOURS["treated"], alpha=0.7)
    ax.axvline(0, color="black", ls="--", lw=1, label="the model's own answers")
    ax.set(xlabel="projection difference", ylabel=f"judge's score: {label} (0-100)", ylim=(-3, 103))
    ax.legend(**ABOVE)
    interactive = go.Figure(go.Scatter(x=x, y=y, mode="markers", marker={"color": COLOURS["treated"]}))
    n = int((~np.isnan(y)).sum())
    alt = f"Scatter of {n} rows of data: the judge's score ({label}) over the projection difference, {x.min():.2f} to"
    show(fig, interactive, f"{alt} {x.max():.2f}. Dashed: the model's own answers.")
