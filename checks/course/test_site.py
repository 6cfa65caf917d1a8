"""What the reading site is put together from; `.ci/run` has Sphinx read it, with every warning an error."""

from __future__ import annotations

import base64
import re

import nbformat
import pytest

from personalab.course import site
from personalab.course.cells import read
from personalab.course.myst import sections
from personalab.paths import ROOT


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "source"
    site.collect(folder)
    return folder


def test_every_section_is_there_with_its_outputs_in_place_of_expected_ones(source):
    for path in sections(ROOT / "exercises", ".ipynb").values():
        page = read(source / "sections" / path.name)
        text = "\n".join(cell.source for cell in page.cells)
        assert "A solution" in text and "Expected output" not in text
        assert any(cell.get("outputs") for cell in page.cells)
        graders = [cell for cell in page.cells if cell.metadata.get("nbgrader", {}).get("grade")]
        assert graders and not any(cell.outputs for cell in graders)


def test_sections_stand_in_the_order_of_the_course(source):
    listed = re.findall(r"^sections/(section_\w+)$", (source / "sections.md").read_text("utf-8"), re.M)
    assert listed == [path.stem for path in sections(ROOT / "exercises", ".ipynb").values()]
    assert listed.index("section_4_steering") < listed.index("section_4_bonus_finetuning")


def test_every_picture_is_a_file_and_described(source):
    pages = [p.read_text("utf-8") for p in (source / "sections").glob("*.ipynb")]
    pictures = [tag for page in pages for tag in re.findall(r"<img .*?>", page)]
    assert pictures and all(re.search(r'alt=\\"[^"]{20,}\\"', tag) for tag in pictures)
    names = {name for tag in pictures for name in re.findall(r"_static/(figures/[^\"\\]+)", tag)}
    assert all((source / "_static" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert not any("base64" in page or "vnd.plotly" in page for page in pages)


def test_every_picture_that_a_page_names_came_with_it(source):
    named = [
        (page.name, target)
        for page in source.rglob("*.md")
        for target in re.findall(r"!\[[^\]]*\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8"))
    ]
    assert ("judges.md", "results/costs.svg") in named
    assert not [(page, target) for page, target in named if not (source / target).exists()]


def test_links_lead_to_pages_or_are_words(source):
    places = {"docs/tiers.md": "tiers.md", "README.md": "index.md"}
    text = "[a](docs/tiers.md#x) [b](exercises/section_1_x.ipynb) [c](LICENSE) [d](https://x.org/y) ![e](p.png) [f](#g)"
    expected = "[a](/tiers.md#x) [b](/sections/section_1_x.ipynb) c [d](https://x.org/y) ![e](p.png) [f](#g)"
    assert site.linked(text, ROOT / "README.md", ROOT, places) == expected
    assert site.linked("[a](../README.md)", ROOT / "docs" / "tiers.md", ROOT, places) == "[a](/index.md)"
    assert "](docs/" not in (source / "index.md").read_text("utf-8")


def test_an_output_cannot_leave_its_place(tmp_path):
    picture = nbformat.v4.new_output(
        "display_data", {"image/png": base64.b64encode(b"png").decode(), "text/plain": '"><script>x</script>'}
    )
    figure = nbformat.v4.new_output("display_data", {site._PLOTLY: {"data": "</script>"}, "image/png": "eA=="})
    shown = [site._shown(output, "cell", i, tmp_path / "s") for i, output in enumerate((picture, figure))]
    assert "<script>" not in "".join(output.data["text/html"] for output in shown)
    assert (tmp_path / "s" / "cell-0.png").read_bytes() == b"png"
    assert "</script>" not in (tmp_path / "s" / "cell-1.js").read_text()
    assert not (tmp_path / "s" / "cell-1.png").exists()  # which only says that there is an interactive figure


def test_the_reference_has_every_module(tmp_path):
    site.reference(tmp_path, ROOT / "personalab")
    pages = "\n".join(p.read_text("utf-8") for p in tmp_path.glob("*.rst"))
    assert ".. automodule:: personalab.lm.interventions\n" in pages
    assert len(re.findall("automodule", pages)) == len(list((ROOT / "personalab").glob("*/[!_]*.py")))
