"""HTML out of values: text is escaped, and only what `element` made is not."""

import re
from html import escape

VOID = {"br", "img", "input", "meta", "wbr"}
"""Elements without an end tag."""

# A browser takes these for errors in the file, wherever they stand.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Markup(str):
    """HTML that is so already. Made by `element`, and of constants of this room."""

    __slots__ = ()


Child = str | None
"""What stands in an element: Markup as it is, text escaped, None not at all."""


def element(name: str, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """`<name attribute="value">children</name>`.

    An underscore at the end of an attribute's name goes (`class_`), others become hyphens
    (`data_run`). True gives an attribute without a value, False and None give none.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written = key.rstrip("_").replace("_", "-")
        words.append(written if value is True else f'{written}="{text(str(value))}"')
    opened = f"<{' '.join(words)}>"
    if name in VOID:
        return Markup(opened)
    return Markup(f"{opened}{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Children one behind the other, without an element around them."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else text(child)
            for child in children
            if child is not None
        )
    )


def text(content: str) -> Markup:
    """Text from anywhere, such that a browser shows it letter by letter."""
    # str() first: Markup given as the value of an attribute is escaped like other text.
    return Markup(escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(content))))
