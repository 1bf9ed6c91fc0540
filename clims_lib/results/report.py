"""report.html: one self-contained page with our numbers beside the paper's and the key figures."""

import base64
import html
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from clims_lib.artifacts import atomic_path
from clims_lib.results.paper import TABLE_1, beside_the_paper
from clims_lib.results.tables import headline_of, mean_per_cent, summary

STYLE = """
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
caption { text-align: left; padding-bottom: .4rem }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8886 }
th:first-child { text-align: left; font-weight: normal }
thead th { font-weight: bold; vertical-align: bottom }
.lowest { font-weight: bold; text-decoration: underline }
img { max-width: 100%; height: auto; background: white }
figure { margin: 2rem 0 }
"""


def save_figure(figure: Figure, path: Path, alt: str) -> None:
    """Write a matplotlib figure as PNG with its alternative text inside, for `render_report`.

    Where a notebook also displays the figure, it has the same text there (`plots.set_up`).
    """
    if not alt.strip():
        raise ValueError(f"{path}: say in `alt` what the figure shows to one who cannot see it")
    figure.alt = alt  # type: ignore[attr-defined]
    with atomic_path(path) as temporary:
        figure.savefig(
            temporary, format="png", dpi=110, bbox_inches="tight", metadata={"Description": alt}
        )


def render_report(
    results: dict, figures_folder: Path, path: Path, committed: dict | None = None, split: str = ""
) -> None:
    """Write report.html from results.json's dictionary and the PNG files of a folder.

    `committed` is the table over several seeds, set beside this run's numbers if given.
    """
    parts = [
        "<h1>CLIMS, from scratch: what this run measured</h1>",
        f"<p>{_text(origin(results))}.</p>",
        *(
            f"<h2>{title}</h2>\n{lines}"
            for title, lines in tables(results, committed, split).items()
        ),
        _figures(figures_folder),
    ]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>CLIMS: results</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def tables(results: dict, committed: dict | None = None, split: str = "") -> dict[str, str]:
    """Return {title: HTML table} of all that was measured on a split, for report and book.

    Numbers are means over the seeds in `results`; `split` is the headline's if not given.
    """
    rows, theirs = results["rows"], (committed or {}).get("rows", [])
    split = split or headline_of(rows)
    found = {
        "Beside the paper": "<p>The paper's numbers are from PASCAL VOC2012 photographs and large "
        "networks, ours from other pictures or smaller networks: compare the order of methods and "
        "the gains, not the height.</p>\n" + _paper_table(rows, theirs, split),
        f"All methods ({_text(split)})": _methods_table(rows, theirs, split),
        "Zero-shot accuracy": _zero_shot_table(results.get("zero_shot", [])),
        "Oracle check": _oracle_table(results.get("oracle", [])),
        "The paper's Table 1": _table(
            "Semi-supervised segmentation, VOC2012 mIoU in per cent, as published",
            ["method", "val", "test"],
            [[name, _number(val), _number(test)] for name, val, test in TABLE_1],
        ),
    }
    return {title: lines for title, lines in found.items() if lines}


def origin(results: dict) -> str:
    """Say with what, on what, from which commit and with which seeds results were measured."""
    where, seeds = results.get("environment", {}), {row["seed"] for row in results["rows"]}
    return (
        f"Python {where.get('python', '?')}, torch {where.get('torch', '?')}, "
        f"{where.get('cores', '?')} cores, {where.get('device', '?')}; commit "
        f"{results.get('commit') or 'unknown'}; seed "
        f"{', '.join(map(str, sorted(seeds))) or 'none'}"
    )


def _paper_table(rows: list[dict], committed: list[dict], split: str) -> str:
    header, columns = ["", "paper, VOC2012", f"ours, {split}"], [rows]
    if committed:
        header, columns = [*header, "committed, mean ± spread"], [rows, committed]
    lines = zip(*(beside_the_paper(column, split) for column in columns), strict=True)
    body = [
        [line[0][0], _number(line[0][1]), *(mean_per_cent(ours) for _, _, ours in line)]
        for line in lines
    ]
    return _table("IoU and mIoU in per cent", header, body)


def _methods_table(rows: list[dict], committed: list[dict], split: str) -> str:
    ours, theirs = summary(rows, split), summary(committed, split)
    classes = list(dict.fromkeys(name for row in rows for name in row.get("iou", {})))
    leaks = sorted({pair for row in rows for pair in row.get("leak") or {}})
    header = [
        "method",
        "mIoU",
        *(["committed mIoU"] if theirs else []),
        *classes,
        *(f"leak {pair.replace('->', ' → ')}" for pair in leaks),
    ]
    body = []
    for method, measures in ours.items():
        seeds = [mean_per_cent(theirs.get(method, {}).get("miou"))] if theirs else []
        body.append(
            [
                method,
                mean_per_cent(measures.get("miou")),
                *seeds,
                *(mean_per_cent(measures.get(name)) for name in [*classes, *leaks]),
            ]
        )
    return _table("IoU per class and leak rates in per cent", header, body)


def _zero_shot_table(zero_shot: list[dict]) -> str:
    if not zero_shot:
        return ""
    classes = list(dict.fromkeys(name for row in zero_shot for name in row["accuracy"]))
    body = [
        [
            row["model"],
            row["split"],
            row["seed"],
            *(_number(row["accuracy"].get(name), 100) for name in classes),
        ]
        for row in zero_shot
    ]
    return _table(
        "Share of a class's pictures recognised, in per cent",
        ["model", "split", "seed", *classes],
        body,
    )


def _oracle_table(oracle: list[dict]) -> str:
    if not oracle:
        return ""
    masks = list(dict.fromkeys(row["mask"] for row in oracle))
    classes = list(dict.fromkeys(row["class"] for row in oracle))
    body: list[list[str]] = []
    lowest = set()
    for name in classes:
        losses = {
            mask: [
                row["loss"]
                for row in oracle
                if row["class"] == name and row["mask"] == mask and row["loss"] is not None
            ]
            for mask in masks
        }
        means = {mask: sum(values) / len(values) for mask, values in losses.items() if values}
        if means:
            lowest.add((len(body), 1 + masks.index(min(means, key=means.__getitem__))))
        body.append([name, *(_number(means.get(mask)) for mask in masks)])
    return _table(
        "Mean CLIMS loss of candidate masks; the lowest of each class is underlined and should "
        "be the true mask or the true mask blurred",
        ["class", *masks],
        body,
        lowest,
    )


def _figures(folder: Path) -> str:
    parts = []
    for path in sorted(Path(folder).glob("*.png")):
        with Image.open(path) as image:
            name = path.stem.replace("_", " ")
            alt, (width, height) = image.info.get("Description", name), image.size
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{_text(alt)}" '
            f'width="{width}" height="{height}"><figcaption>{_text(name)}</figcaption>'
            "</figure>"
        )
    return "\n".join(["<h2>Figures</h2>", *parts]) if parts else ""


def _table(caption: str, header: list, body: list[list], marked: Iterable = ()) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in header)
    lines = []
    for i, (first, *cells) in enumerate(body):
        tags = (
            f'<td class="lowest">{_text(cell)}</td>'
            if (i, j) in marked
            else f"<td>{_text(cell)}</td>"
            for j, cell in enumerate(cells, start=1)
        )
        lines.append(f'<tr><th scope="row">{_text(first)}</th>{"".join(tags)}</tr>')
    return (
        f'<div class="wide"><table><caption>{_text(caption)}</caption><thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _number(value: float | None, factor: float = 1) -> str:
    return "-" if value is None else f"{factor * value:.1f}"


def _text(value: object) -> str:
    return html.escape(str(value))
