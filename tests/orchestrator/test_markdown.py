import pytest

from orchestrator.markdown import as_code, as_text, table


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("plain", "plain", "`plain`"),
        ("a|b", r"a\|b", "`a|b`"),
        ("e_f _d_", r"e_f \_d\_", "`e_f _d_`"),
        ("`c` ``", r"\`c\` \`\`", "``` `c` `` ```"),
        (" <b>\n&lt; ", r" \<b> \&lt; ", "`  <b> &lt;  `"),
        ("a\x1b[2Kb\u202e", r"a\\x1b\[2Kb\\u202e", r"`a\x1b[2Kb\u202e`"),
        ("1 < 2 & 3", "1 < 2 & 3", "`1 < 2 & 3`"),
    ],
)
def test_names_are_shown_as_they_are(name, text, code):
    assert as_text(name) == text
    assert as_code(name) == code


def test_a_cell_ends_where_it_is_to_whoever_wrote_it():
    rows = [(as_text("a|b"), "1"), (as_code("a|b"), "2"), ("**a|b**", "3")]
    assert table(("name", "x|y"), rows).splitlines() == [
        r"| name | x\|y |",
        "| --- | ---: |",
        r"| a\|b | 1 |",
        r"| `a\|b` | 2 |",
        r"| **a\|b** | 3 |",
    ]
    assert table(("name", "what"), [], others="words").splitlines()[1] == "| --- | --- |"
