import json
import re

from edgeprune.report.card import card
from tests import factories


def front_matter(text):
    """Return the lines between the two rulers."""
    start, block, _ = text.split("---\n", 2)
    assert start == ""
    return block.splitlines()


def scalar(lines, key):
    (value,) = [
        line.partition(":")[2].strip() for line in lines if line.strip(" -").startswith(f"{key}:")
    ]
    return json.loads(value) if value.startswith('"') else value


def test_front_matter_says_what_the_model_is():
    lines = front_matter(card(factories.a_document()))
    assert scalar(lines, "license") == "apache-2.0"
    assert scalar(lines, "library_name") == "onnxruntime"
    assert {"- onnx", "- pruning", "- edgeprune"} <= set(lines)
    assert "      value: 0.9281" in lines
    assert "      value: 2.027" in lines


def test_licence_that_is_no_identifier_becomes_other():
    lines = front_matter(card(factories.a_document(licence='ask "us": first')))
    assert scalar(lines, "license") == "other"
    assert scalar(lines, "license_name") == 'ask "us": first'


def test_licence_that_nobody_stated_is_left_out():
    text = card(factories.a_document(licence=None))
    assert not any(line.startswith("license") for line in front_matter(text))
    assert "No licence was stated for the weights." in text


def test_job_cannot_break_out_of_the_front_matter_or_into_html():
    verdict = factories.a_verdict(job='x"\n---\n<script>', metric="a|b")
    text = card(factories.a_document(verdict=verdict, title="<script>|"))
    lines = front_matter(text)
    assert scalar(
        [line for line in lines if "model-index" not in line and "- name" in line], "name"
    ) == ('x"\n---\n<script>')
    assert "<script" not in text


def test_tables_have_the_same_number_of_cells_in_every_row():
    verdict = factories.a_failure(metric="a|b")
    text = card(factories.a_document(verdict=verdict))
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 5
    for table in tables:
        assert len({row.count("|") for row in table.splitlines()}) == 1


def test_body_states_figures_with_doubt_and_kind():
    text = card(factories.a_document())
    assert "Speed-up: 2.027\N{MULTIPLICATION SIGN} (95 % interval 2.019 to 2.036)." in text
    assert "measured on the device" in text
    assert "| stages.2.0.conv2 | 128 | 48 | taylor |" in text
    assert "np.zeros((1, 1, 28, 28), dtype='float32')" in text


def test_failed_gates_are_named():
    text = card(factories.a_document(verdict=factories.a_failure()))
    assert "**Not passed: accuracy and budget not met; not measured: ram.**" in text
    assert "| budget | **not met** |" in text


def test_estimates_are_never_called_a_speed_up():
    text = card(factories.a_document(verdict=factories.an_estimate()))
    assert not re.search(r"speed.?up", text, re.IGNORECASE)
    assert "no evidence about real hardware" in text


def test_a_metric_keeps_its_own_letters():
    text = card(factories.a_document(verdict=factories.a_verdict(metric="mean IoU")))
    assert "Mean IoU comes from 10,000 samples" in text
    assert "Mean IoU on validation data: 0.8127 before fine-tuning" in text


def test_an_int8_model_is_named_with_its_precision_and_its_c_code():
    files = {"model.onnx": "0" * 64, "model.int8.onnx": "1" * 64}
    text = card(factories.a_document(files=files, code=factories.a_code()))
    used = text[text.index("## Use it") : text.index("## How it was made")]
    assert '"model.int8.onnx", options' in used
    assert "`c/README.md` says how to" in used
    assert "A neural network in ONNX (int8)" in text
    assert "| cost (measured, int8) |" in text
    assert "cost on mobile_cpu in us, measured, int8" in text


def test_a_float_model_is_the_file_to_use():
    text = card(factories.a_document())
    assert '"model.onnx", options' in text
    assert "| cost (measured, float32) |" in text
    assert "int8" not in text
    assert "`c/" not in text


def test_prose_and_code_are_not_escaped_as_in_html():
    command = "edgeprune verify 'a & b/dense.onnx' \"model.onnx\""
    gate = (
        factories.a_failure()
        .gates[-1]
        .model_copy(
            update={
                "met": None,
                "command": command,
                "note": "not the dense model's, <b>at</b> 2 < 3",
            }
        )
    )
    verdict = factories.a_failure(job="R&D &lt;", gates=(gate,), note="the board's own")
    text = card(factories.a_document(verdict=verdict))
    assert "&#39;" not in text
    assert "&#34;" not in text
    assert f"`{command}`" in text
    assert "not the dense model's, &lt;b>at&lt;/b> 2 < 3" in text
    assert "R&D &amp;lt;" in text
    assert "- The board's own." in text


def test_backticks_do_not_end_code():
    verdict = factories.a_verdict(device="a`b<i>")
    assert "`` a`b<i> ``" in card(factories.a_document(verdict=verdict))


def test_groups_that_were_never_cut_are_listed_with_the_reason():
    text = card(factories.a_document())
    assert "| classifier | 10 | its channels are the outputs of the model |" in text
    assert "never cut" not in card(factories.a_document(skipped=()))
