"""What a table says becomes a token, and what it does not say is told."""

from __future__ import annotations

import pytest
import torch
from doppelscan.errors import InputError
from doppelscan.generate import condition_from, fit_condition

TABLE = [
    {"age": "30", "sex": "F", "report": "small left lesion", "path": "a"},
    {"age": "50", "sex": "M", "report": "no finding", "path": "b"},
    {"age": "", "sex": "M", "report": "large right lesion", "path": "c"},
]


def test_numbers_are_standardised_words_are_one_hot_and_a_missing_number_is_the_mean():
    condition = fit_condition("variables", ["age", "sex"], TABLE)
    tokens = torch.stack([condition.embed(condition.of(row)) for row in TABLE])
    assert tokens.tolist() == [[[-1, 1, 0]], [[1, 0, 1]], [[0, 0, 1]]] and condition.size == 3
    assert condition.embed({"age": "60", "sex": "F"}).tolist() == [[2, 1, 0]]
    assert condition.known == [{"age": "30", "sex": "F"}, {"age": "50", "sex": "M"}, {"age": "", "sex": "M"}]


def test_texts_are_told_apart_and_the_same_text_is_the_same_token():
    condition = fit_condition("text", "report", TABLE)
    first, second, third = (condition.embed(condition.of(row)) for row in TABLE)
    assert first.shape == (1, 512) and float(first.std()) == pytest.approx(1, abs=0.1)
    near, far = torch.cosine_similarity(first, third), torch.cosine_similarity(first, second)
    assert float(near) > 0.1 and float(far) < float(near)
    assert torch.equal(condition.embed({"report": " small left lesion"}), first)


@pytest.mark.parametrize(("kind", "columns"), [("none", None), ("variables", ["age", "sex"]), ("text", "report")])
def test_a_condition_is_the_same_after_it_was_stored(kind, columns, tmp_path):
    condition = fit_condition(kind, columns, TABLE)
    torch.save(condition.state(), tmp_path / "state.pt")
    again = condition_from(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.conditional == (kind != "none") and again.known == condition.known
    for row in TABLE:
        assert torch.equal(again.embed(again.of(row)), condition.embed(condition.of(row)))


@pytest.mark.parametrize(
    ("kind", "columns", "words"),
    [
        ("conditioning", None, "must be none, variables or text. Got 'conditioning'"),
        ("variables", None, "must name columns of the table for variables. Got none"),
        ("variables", ["weight"], "Got 'weight', which holds nothing; the table has age, path, report, sex"),
        ("text", ["age", "sex"], "must name one column"),
        ("text", "age", "missing or empty for 1 of 3"),
        ("text", None, "Got 'text', which is missing"),
    ],
)
def test_a_condition_that_cannot_be_is_told_in_one_line(kind, columns, words):
    with pytest.raises(InputError, match=words) as error:
        fit_condition(kind, columns, TABLE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"age": "old", "sex": "F"}, "'age' must be a number. Got 'old'"),
        ({"age": "3", "sex": "X"}, "'sex' must be one of 'F', 'M'. Got 'X'"),
        ({"height": "3"}, "must be of age, sex. Got 'height'"),
    ],
)
def test_a_value_that_was_not_trained_on_is_told(values, words):
    with pytest.raises(InputError, match=words):
        fit_condition("variables", ["age", "sex"], TABLE).embed(values)


def test_a_text_model_of_transformers_is_used_from_its_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "small", "large", "left", "right", "lesion", "no", "finding"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    condition = fit_condition("text", "report", TABLE, str(tmp_path))
    first, second = (condition.embed(condition.of(row)) for row in TABLE[:2])
    assert condition.size == 16 and first.shape == (1, 16) and not torch.allclose(first, second)
    assert torch.equal(condition_from(condition.state()).embed({"report": "no finding"}), second)
    with pytest.raises(InputError, match=r"'text_encoder' parameter must be a folder") as error:
        fit_condition("text", "report", TABLE, str(tmp_path / "not there"))
    assert "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"'text_encoder' parameter must be a folder"):
        fit_condition("text", "report", TABLE, str(tmp_path / "empty"))
