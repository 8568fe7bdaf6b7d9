"""Tests of the HTML report: what is in it, that it needs nothing else, and what it refuses."""

from __future__ import annotations

import base64
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from escnet.evaluation.report.html_report import write_report
from escnet.evaluation.runs.conditions import SCORED
from escnet.evaluation.runs.image_results import ResultsError

PNG, JPEG = b"\x89PNG plot", b"\xff\xd8 worst"
EVIL = "<script>alert(1)</script>"
MEASURED = {"miou": 0.4182, "miou_d2_2021": 0.4012, "pixel_accuracy": 0.7, "mean_accuracy": 0.5, "fw_iou": 0.6}


def write_run(folder: Path, names: list[str], **conditions) -> None:
    """All files of a run, with two present classes and an absent one."""
    (folder / "worst").mkdir(parents=True)
    description = {"conditions": conditions, "title": "T", "dataset": "d", "model": "M", "class_names": names}
    (folder / "run.json").write_text(json.dumps(description))
    classes = [
        {"name": name, "iou": iou, "accuracy": iou, "truth_pixels": pixels, "predicted_pixels": 12345}
        for name, iou, pixels in zip(names, (0.5, 0.3364, None), (1000, 2, 0), strict=True)
    ]
    metrics = {"dataset": "d", "images": 8, "ignored": 0.125, "seconds_per_image": 1.2345, "classes": classes}
    (folder / "metrics.json").write_text(json.dumps(metrics | MEASURED))
    with open(folder / "confusions.csv", "w", newline="") as stream:
        header = ("truth", "predicted", "pixels", "share_of_truth")
        csv.writer(stream).writerows([header, (names[0], names[1], 98765, 0.25)])
    (folder / "per_class.png").write_bytes(PNG)
    (folder / "worst" / "01_x.jpg").write_bytes(JPEG)
    worst = [{"file": "01_x.jpg", "image": "street/x", "miou": 0.0123, "pixel_accuracy": None}]
    (folder / "worst.json").write_text(json.dumps(worst))


def write_output(output: Path, names: tuple[str, ...] = ("cat", "dog", "sky"), **conditions) -> Path:
    """An evaluation of two models on two datasets, one of which only the first was run on."""
    (output).mkdir(exist_ok=True)
    scores = {}
    for model, dataset in (("ESCNet", "a150"), ("ESCNet", "pc59"), ("DenseClip", "a150")):
        write_run(output / model / dataset, list(names), **conditions)
        scores.setdefault(model, {})[dataset] = {**MEASURED, "images": 8, "of": 2000, "folder": f"{model}/{dataset}"}
    scores["ESCNet"]["pc59"]["of"] = None
    scores["DenseClip"]["a150"]["miou"] = 0.2
    rows = [
        {"model": "CAT-Seg", "source": "published", "how": "published: their paper", "scores": {"a150": {"miou": 0.9}}},
        {"model": "ESCNet", "source": "measured", "how": "measured: here, fp32", "scores": scores["ESCNet"]},
        {"model": "DenseClip", "source": "measured", "how": "measured: here too", "scores": scores["DenseClip"]},
    ]
    columns = [{"dataset": d, "short": d, "title": t} for d, t in (("a150", "A-150"), ("pc59", "PC-59"))]
    write_table(output, {"columns": columns, "rows": rows})
    return output


def write_table(output: Path, table: dict) -> None:
    (output / "table.json").write_text(json.dumps(table))


class Page(HTMLParser):
    """Start tags with attributes, and the text of each table row, cells joined by bars."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> does not close what is open"
        if tag in ("td", "th"):
            self.rows[-1] += "|"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data
        if "tr" in self.open:
            self.rows[-1] += " ".join(data.split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(output: Path) -> Page:
    path = write_report(output)
    assert path == output / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == [], "unclosed tags"
    return page


def test_the_table_has_measured_and_published_rows(tmp_path: Path) -> None:
    page = page_of(write_output(tmp_path))
    assert page.rows[:4] == [
        "model|A-150|PC-59|",
        "CAT-Seg" + "published" + "their paper" + "|90.0|–|",
        "ESCNet" + "measured" + "here, fp32" + "|41.828 of 2 000 images|41.82|",
        "DenseClip" + "measured" + "here too" + "|20.008 of 2 000 images|–|",
    ]
    classes = [attributes.get("class") for attributes in page.named("tr")]
    assert classes[1:4] == ["published", "measured", "measured"]


def test_a_long_account_of_how_a_row_was_measured_is_folded(tmp_path: Path) -> None:
    output = write_output(tmp_path)
    table = json.loads((output / "table.json").read_text())
    table["rows"][1]["how"] = "measured: " + ", ".join(f"SETTING_{i} {i}" for i in range(30))
    write_table(output, table)
    page = page_of(output)
    folded = [tag for tag in page.named("details") if tag.get("class") == "how"]
    assert len(folded) == 1 and "SETTING_29 29" in page.text


def test_the_best_measured_number_is_bold_and_leads_to_its_run(tmp_path: Path) -> None:
    page = page_of(write_output(tmp_path))
    links = [a for a in page.named("a") if a["href"] != "#"][:3]
    assert [link.get("class") for link in links] == ["best", "best", None]
    sections = [section["id"] for section in page.named("section")]
    assert sections == [link["href"][1:] for link in links] and len(set(sections)) == 3


def test_only_runs_on_the_most_images_can_be_best(tmp_path: Path) -> None:
    output = write_output(tmp_path)
    table = json.loads((output / "table.json").read_text())
    table["rows"][2]["scores"]["a150"]["images"] = 2000
    write_table(output, table)
    links = [a for a in page_of(output).named("a") if a["href"] != "#"][:3]
    assert [link.get("class") for link in links] == [None, "best", "best"]


def test_other_scores_are_folded_and_only_of_measured_rows(tmp_path: Path) -> None:
    page = page_of(write_output(tmp_path))
    assert [row for row in page.rows if row.startswith("CAT-Seg")] == page.rows[1:2]
    for value in ("40.12", "70.00", "50.00", "60.00"):
        assert f"ESCNetmeasured|{value}8 of 2 000 images|{value}|" in page.rows
    assert page.text.index("The same runs by other scores") < page.text.index("ESCNet on A-150")


def test_a_run_shows_its_scores_conditions_confusions_classes_and_pictures(tmp_path: Path) -> None:
    templates = [f"a photo of a {{}} number {i}" for i in range(80)]
    page = page_of(
        write_output(
            tmp_path, inference={"window": 384, "sliding": True, "size": [1, 2]}, words={"templates": templates}
        )
    )
    for row in (
        "mIoU|41.82 %|",
        "images|8of 2 000|",
        "images|8|",
        "classes in the truth|2 of 3|",
        "pixels ignored|12.50 %|",
        "median time per image|1.23 s|",
        "inference.window|384|",
        "inference.sliding|yes|",
        "inference.size|1, 2|",
        "cat|dog|98 765|25.0 %|",
        "1|dog|33.64|33.64|2|12 345|",
        "2|sky|–|–|0|12 345|",
    ):
        assert row in page.rows, row
    assert "a photo of a {} number 79" in page.text and "80 entries" in page.text
    assert "street/x: mIoU 1.23 %, pixel accuracy – %" in page.text


def test_what_is_scored_is_said_where_not_all_is(tmp_path: Path) -> None:
    output = write_output(tmp_path)
    assert "over 2 of 3" not in page_of(output).text
    run = output / "ESCNet" / "a150"
    metrics, description = (json.loads((run / name).read_text()) for name in ("metrics.json", "run.json"))
    (run / "metrics.json").write_text(json.dumps(metrics | {"scored_classes": [1, 3]}))
    with pytest.raises(ResultsError, match=r"a150/metrics\.json: has other classes than run\.json"):
        write_report(output)
    conditions = {"data": {SCORED: [1, 3]}}
    (run / "run.json").write_text(json.dumps(description | {"conditions": conditions}))
    note = "A-150: mIoU and mean accuracy are over 2 of 3 classes (ids 1..2)."
    write_table(output, json.loads((output / "table.json").read_text()) | {"notes": [note]})
    page = page_of(output)
    assert page.text.count(note) == 1 and page.text.index(note) < page.text.index("The same runs by other scores")
    assert page.rows.count("mIoU and mean accuracy are over|2 of 3 classes (ids 1..2)|") == 1
    assert f"data.{SCORED}|1, 3|" in page.rows


def test_words_that_were_left_out_are_said(tmp_path: Path) -> None:
    output = write_output(tmp_path)
    assert "looked at" not in page_of(output).text
    path = output / "ESCNet" / "a150" / "metrics.json"
    metrics = json.loads(path.read_text())
    for considered, rows in ((3.0, 0), (1.625, 1)):
        path.write_text(json.dumps(metrics | {"words": 3, "words_considered": considered}))
        assert page_of(output).rows.count("mean of words looked at per image|1.6 of 3|") == rows
    for damaged in ({"words_considered": 1.5}, {"words": 3, "words_considered": "few"}):
        path.write_text(json.dumps(metrics | damaged))
        with pytest.raises(ResultsError, match=r"a150/metrics\.json: is not the metrics of a run"):
            write_report(output)


def test_the_file_needs_no_other_and_runs_nothing(tmp_path: Path) -> None:
    page = page_of(write_output(tmp_path))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    sources = [image["src"] for image in page.named("img")]
    expected = ["data:image/png;base64," + base64.b64encode(PNG).decode()]
    expected += ["data:image/jpeg;base64," + base64.b64encode(JPEG).decode()]
    assert sources == 3 * expected
    assert all(link["href"].startswith("#") for link in page.named("a"))
    html = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?://|url\(|@import", html)
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} == {"table.json", "report.html"}


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    output = write_output(tmp_path, (EVIL, '"><img src=x>', "& sky"), **{EVIL: EVIL})
    table = json.loads((output / "table.json").read_text())
    table["rows"][1] |= {"model": EVIL, "how": EVIL}
    table["columns"][0] |= {"title": '"><b>', "short": EVIL}
    write_table(output, table)
    worst = [{"file": "01_x.jpg", "image": '" onerror="alert(1)', "miou": 0, "pixel_accuracy": 0}]
    (output / "ESCNet" / "a150" / "worst.json").write_text(json.dumps(worst))
    page = page_of(output)
    assert "<script" not in (tmp_path / "report.html").read_text()
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert all(set(image) == {"src", "alt"} for image in page.named("img"))
    assert f"{EVIL}|{EVIL}|" in page.rows and f'{EVIL}|"><img src=x>|98 765|25.0 %|' in page.rows


def test_what_may_be_missing_is_said(tmp_path: Path) -> None:
    output = write_output(tmp_path)
    run = output / "DenseClip" / "a150"
    for name in ("per_class.png", "confusions.csv", "worst.json"):
        (run / name).unlink()
    page = page_of(output)
    assert page.text.count("There is no per_class.png") == page.text.count("There is no confusions.csv") == 1
    assert page.text.count("No pictures of them were drawn") == 1
    assert len(page.named("img")) == 4
    (run / "worst.json").write_text("[]")
    (run / "confusions.csv").write_text("truth,predicted,pixels,share_of_truth\n")
    page = page_of(output)
    assert "Not a pixel is taken for another class" in page.text and "No pictures of them" in page.text


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("table.json", None, r"table\.json: does not exist"),
        ("table.json", '{"rows": []}', r"table\.json: is not the table of an evaluation \(KeyError\('columns'\)\)"),
        ("ESCNet/pc59/run.json", None, r"ESCNet/pc59/run\.json: does not exist"),
        ("ESCNet/pc59/metrics.json", None, r"ESCNet/pc59/metrics\.json: does not exist"),
        ("ESCNet/pc59/metrics.json", '{"miou": 0.', r"ESCNet/pc59/metrics\.json: cannot be read"),
        ("ESCNet/pc59/metrics.json", '{"miou": 0.1}', r"ESCNet/pc59/metrics\.json: is not the metrics.*miou_d2_2021"),
        ("ESCNet/pc59/confusions.csv", "truth,predicted\na,b\n", r"confusions\.csv: is not a table of confusions"),
        ("ESCNet/pc59/worst.json", '[{"image": "x"}]', r"worst\.json: is not a list of images"),
        ("ESCNet/pc59/worst/01_x.jpg", None, r"01_x\.jpg: cannot be read"),
    ],
)
def test_what_is_missing_or_damaged_is_named(tmp_path: Path, name: str, contents: str | None, message: str) -> None:
    output = write_output(tmp_path)
    (output / name).unlink()
    if contents is not None:
        (output / name).write_text(contents)
    with pytest.raises(ResultsError, match=message):
        write_report(output)
    assert not (output / "report.html").exists()


def test_metrics_of_other_classes_and_senseless_tables_are_refused(tmp_path: Path) -> None:
    output = write_output(tmp_path)
    metrics = output / "ESCNet" / "pc59" / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"cat"', '"horse"'))
    with pytest.raises(ResultsError, match=r"metrics\.json: has other classes"):
        write_report(output)
    table = json.loads((output / "table.json").read_text())
    table["rows"][0]["scores"]["a150"]["miou"] = "much"
    write_table(output, table)
    with pytest.raises(ResultsError, match="miou of CAT-Seg is 'much'"):
        write_report(output)
