"""Text of records in Markdown: it is shown, never understood."""

import pytest

from harness import markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tiny-16 of single_turn, 2.13.0+cpu", "tiny-16 of single_turn, 2.13.0+cpu"),
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("[a](javascript:x) | b\nc", r"\[a\](javascript:x) \| b c"),
        ("*bold* _it_ `code` ~~gone~~ $x$", r"\*bold\* \_it\_ \`code\` \~\~gone\~\~ \$x\$"),
        ("https://example.com &amp; www.example.com", "https&#58;//example.com &amp;amp; www&#46;example.com"),
        ("turned \u202e round\x1b[31m", "turned \ufffd round\ufffd\\[31m"),
        ("שלום", "שלום"),
    ],
)
def test_plain_text_means_nothing_to_markdown(text: str, shown: str) -> None:
    assert markdown.plain(text) == shown


def test_code_ends_where_it_should() -> None:
    assert markdown.code("a`|\n<b>") == r"`a'\| <b>`"
    assert markdown.code("") == "` `"


def test_links_of_odd_names() -> None:
    assert markdown.link("x", "a b/(1).json") == "[x](a%20b/%281%29.json)"
