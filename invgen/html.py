"""Objects as HTML for a notebook: a title, a small picture where there is one, and a table. IPython is not needed.

A notebook asks an object for `_repr_html_`; methods of that name return a `card`.
"""

import html
from collections.abc import Mapping
from typing import Any

LEFT = ' style="text-align:left"'  # notebooks align the cells of a table to the right


def card(title: str, rows: Mapping[str, Any], png: str = "") -> str:
    """Returns a title, a picture and a table as one piece of HTML, which needs no style sheet and no script.

    Args:
        title: plain text, as all names and values of `rows` are; all of it is escaped.
        rows: the table, name -> value; a value of None is left out.
        png: the picture between them, a PNG in base64.
    """
    title = html.escape(title)
    table = "".join(
        f"<tr><th{LEFT}>{html.escape(name)}</th><td{LEFT}>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value is not None
    )
    picture = f'<div><img alt="{title}" src="data:image/png;base64,{png}"></div>' if png else ""
    return f"<div><strong>{title}</strong>{picture}<table>{table}</table></div>"
