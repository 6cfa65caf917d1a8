"""`.ci/pages.py`, which looks at the finished site: it names every kind of link that leads nowhere, no sound one."""

from __future__ import annotations

import runpy

from personalab.paths import ROOT

PAGES = runpy.run_path(str(ROOT / ".ci" / "pages.py"))
SOUND = """<h1 id="top">a</h1><a href="b/c.html#there">in</a><a href="#top">here</a><a href="https://x.org/y">out</a>
<a href="b/c.html?q=1">asked</a><img src="data:,"><img src="p%20q.png"><a href="#">top</a>"""


def test_broken_links_are_named_and_sound_ones_are_not(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "p q.png").touch()
    (tmp_path / "b" / "c.html").write_text('<p id="there">c</p><a href="../a.html#top">back</a>', encoding="utf-8")
    (tmp_path / "a.html").write_text(SOUND, encoding="utf-8")
    assert not [*PAGES["broken_links"](tmp_path)]
    for bad, word in (
        ('<a href="d.html">', "no file for d.html"),
        ('<img src="none.png">', "no file for none.png"),
        ('<details data-figure="f.js">', "no file for f.js"),
        ('<a href="b/c.html#gone">', "no such anchor: b/c.html#gone"),
        ('<a href="#gone">', "no such anchor: #gone"),
        ('<script src="https://cdn.org/x.js">', "<script> fetches https://cdn.org/x.js"),
        ('<img src="//cdn.org/x.png">', "<img> fetches //cdn.org/x.png"),
    ):
        (tmp_path / "a.html").write_text(SOUND + bad, encoding="utf-8")
        assert [*PAGES["broken_links"](tmp_path)] == [f"a.html: {word}"]
