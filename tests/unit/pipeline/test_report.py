"""A report is one file, fetches nothing, escapes everything, and names what it shows."""

import re
from html.parser import HTMLParser

from vesalius.pipeline.report import Section, figure, page, paragraph, table

PNG = b"\x89PNG not really"
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps what they say."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def example():
    rows = [("a<b", 0.91234, 3), ("c&d", None, 12000), ("e", float("nan"), 1)]
    parts = [Section("Cases", table(("Case", "Dice", "Count"), rows, "All <cases>")), Section("A", figure(PNG, 'the "mask"'))]
    return page("Report <1>", parts, "Lead & more")


def test_the_page_is_whole_and_says_what_it_was_given():
    reader = read(example())
    for words in ("Report <1>", "Lead & more", "a<b", "c&d", "0.912", "12,000", "All <cases>"):
        assert words in reader.text, words
    assert reader.text.count("–") == 2, "None and NaN are dashes"


def test_nothing_is_fetched_and_nothing_runs():
    html = example()
    assert not re.search(r"(src|href)\s*=\s*['\"](?!data:)", html) and "@import" not in html and "url(" not in html
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in read(html).tags)


def test_it_can_be_read_by_a_screen_reader_in_light_and_dark():
    html = example()
    tags = read(html).tags
    assert ("html", {"lang": "en"}) in tags and "prefers-color-scheme:dark" in html
    assert all(attrs.get("alt") for tag, attrs in tags if tag == "img")
    scopes = [attrs.get("scope") for tag, attrs in tags if tag == "th"]
    assert scopes.count("col") == 3 and scopes.count("row") == 3


def test_quotes_cannot_break_out_of_an_attribute():
    tags = read(figure(PNG, "x' onerror='alert(1)")).tags
    assert [set(attrs) for tag, attrs in tags if tag == "img"] == [{"src", "alt"}]
    assert "<b>" not in paragraph("<b>bold</b>")
