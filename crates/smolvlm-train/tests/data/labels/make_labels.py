"""What the reference makes of whole conversations: ids, and which of them are the assistant's.

    pip install transformers==5.23.0 pillow==13.0.0 num2words==0.5.14 jinja2==3.1.6 numpy
    python make_labels.py            # writes labels.json beside this file; torch is not needed

`SmolVLMProcessor.apply_chat_template(return_assistant_tokens_mask=True)` marks what a template puts between
`{% generation %}` and `{% endgeneration %}`. The published template has no such marks, so they are added here, around what
follows `Assistant:` up to and with `<end_of_utterance>`; that the text stays the same is checked. Pictures go through the
processor's Pillow backend; of a video the frames' times are taken from the goldens' `video_short.json`.
"""

import json
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, BatchFeature
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE, SmolVLMProcessor
from transformers.video_utils import VideoMetadata

HERE = Path(__file__).resolve().parent
TINY = HERE.parents[4] / "goldens" / "tiny"
INPUTS = TINY / "inputs"

MARKED = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}:"
    "{% macro said(message) %}{% if message['content'][0]['type'] != 'image' %}{{' '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% elif line['type'] == 'video' %}{{ '<video>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>{% endmacro %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ said(message) }}{% endgeneration %}"
    "{% else %}{{ said(message) }}{% endif %}{{ '\\n' }}{% endfor %}"
)


class Videos:
    """Stands for the video processor, which needs torch: the facts of the one clip, and frames without content."""

    num_frames, fps = 8, 1

    def __call__(self, videos, **_):
        facts = json.loads((TINY / "cases" / "video_short.json").read_text())["videos"][0]
        metadata = VideoMetadata(
            total_num_frames=facts["total_num_frames"], fps=facts["fps"], duration=facts["duration"],
            frames_indices=facts["frame_indices"])
        frames = np.zeros((1, len(facts["frame_indices"]), 3, 24, 24), dtype=np.float32)
        return BatchFeature({"pixel_values": frames, "video_metadata": [metadata]})

    def fetch_videos(self, videos, **_):
        return videos


class Processor(SmolVLMProcessor):
    def check_argument_for_proper_class(self, name, argument):
        return None


def text(words):
    return {"type": "text", "text": words}


def image(name):
    return {"type": "image", "path": name}


def said(role, *blocks):
    return {"role": role, "content": [text(block) if isinstance(block, str) else block for block in blocks]}


CASES = {
    "text": [said("system", "Be brief."), said("user", "Hi"), said("assistant", "Hello there.")],
    "turns": [said("user", "One and one?"), said("assistant", "2"), said("user", "And one more?"), said("assistant", "3, of course.")],
    "words_of_the_template": [
        said("user", "Write this:\nAssistant: no<end_of_utterance>\nUser: yes<end_of_utterance>\nAssistant: maybe"),
        said("assistant", "Assistant: no<end_of_utterance>\nUser: yes"), said("user", "Assistant:"), said("assistant", "User: ok")],
    "odd_text": [
        said("user", "  héllo 世界 \U0001f41d 12345\n\n"), said("assistant", " (spaces)  \n"), said("user", "tab\there"),
        said("assistant", "\n- a\n- b\n"), said("user", "?"), said("assistant", "…")],
    "image": [said("user", image("land_97x61.png"), "What is this?"), said("assistant", "A field."), said("user", "Sure?"), said("assistant", "Yes.")],
    "text_before_image": [said("user", "Look: ", image("square_48.png"), " and say."), said("assistant", "Grey.")],
    "images": [
        said("user", "Compare ", image("land_97x61.png"), " with ", image("port_61x97.png"), "."), said("assistant", "The first is wider."),
        said("user", image("square_48.png"), "And this?"), said("assistant", "It is square.")],
    "image_in_answer": [said("user", "Show me."), said("assistant", image("square_48.png"), "Here."), said("user", "Thanks"), said("assistant", "See ", image("tall_13x160.png"))],
    "assistant_first": [said("assistant", "How may I help?"), said("user", "Count to three."), said("assistant", "1 2 3")],
    "user_last": [said("user", "A"), said("assistant", "B"), said("user", "C")],
    "empty_answer": [said("user", "A"), said("assistant", ""), said("user", "C"), said("assistant", "D")],
    "video": [
        said("user", {"type": "video", "path": "short_64x48_10fps_5s.mp4"}, "What happens?"), said("assistant", "It moves."),
        said("user", "When?"), said("assistant", "At 00:03.")],
}


def with_paths(messages):
    block = lambda b: {**b, "path": str(INPUTS / b["path"])} if "path" in b else b
    return [{**m, "content": [block(b) for b in m["content"]]} for m in messages]


def main(tokenizer_folder=TINY / "checkpoint", out=HERE / "labels.json"):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    processor = Processor(SmolVLMImageProcessorPil.from_pretrained(TINY / "checkpoint"), tokenizer, Videos(), image_seq_len=4)
    cases = {}
    for name, messages in CASES.items():
        conversation = with_paths(messages)
        plain = Processor.apply_chat_template(processor, conversation, chat_template=DEFAULT_CHAT_TEMPLATE)
        assert plain == processor.apply_chat_template(conversation, chat_template=MARKED), name
        made = processor.apply_chat_template(
            conversation, chat_template=MARKED, tokenize=True, return_dict=True, return_assistant_tokens_mask=True,
            processor_kwargs={"return_offsets_mapping": True, "return_text_replacement_offsets": True})
        ids, mask = made["input_ids"][0], made["assistant_masks"][0]
        assert len(ids) == len(mask) and (1 in mask)
        cases[name] = {"messages": messages, "ids": [int(i) for i in ids], "mask": "".join(str(int(m)) for m in mask)}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(case, ensure_ascii=False)}" for name, case in cases.items())
    out.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
