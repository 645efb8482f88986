"""Text comes back letter by letter from the HTML that it was put into."""

from html.parser import HTMLParser

import pytest

from jaxseq.reporting.markup import Markup, element, join, text

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)",
    "&lt; &amp; &#60;",
    "<!-- ]]> -->",
    "Caf\u00e9 \u202e \U0001f600",
]


class Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.texts, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("content", HOSTILE)
def test_text_is_text_wherever_it_stands(content):
    reader = Reader()
    reader.feed(element("p", content, element("b", content), title=content, data_name=content))
    assert "".join(reader.texts) == 2 * content
    assert reader.tags == [("p", {"title": content, "data-name": content}), ("b", {})]


def test_only_markup_is_markup():
    made = element("b", "x")
    assert element("p", made) == "<p><b>x</b></p>"
    assert element("p", f"{made}") == "<p>&lt;b&gt;x&lt;/b&gt;</p>"  # an f-string is text again
    assert element("p", title=made) == '<p title="&lt;b&gt;x&lt;/b&gt;"></p>'
    assert isinstance(join(made, "<", None), Markup)
    assert join(made, "<", None) == "<b>x</b>&lt;"


def test_attributes():
    written = element("input", type_="checkbox", checked=True, disabled=False, title=None, max=3)
    assert written == '<input type="checkbox" checked max="3">'


def test_what_no_file_can_hold():
    """Zero bytes end a browser's text, and half a surrogate pair cannot be written as UTF-8."""
    assert text("a\0b\ud800c\td") == "a\ufffdb\ufffdc\td"
    text("\ud83d").encode()
