"""A byte-level tokenizer with turn markers and a chat template, made in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

TEMPLATE: Final = (
    "{%- if tools %}<|turn|>tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<|end|>\n{% endif -%}"
    "{%- for message in messages %}<|turn|>{{ message.role }}\n{{ message.content }}"
    "{%- for call in message.tool_calls or [] %}{{ call.function.name }} "
    "{{ call.function.arguments | tojson }}{% endfor %}<|end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|turn|>assistant\n{% endif -%}"
)
PARTS: Final = TEMPLATE.replace(
    "{{ message.content }}",
    "{% for part in message.content %}{{ part.text }}{% endfor %}",
)
_TEXT: Final = "the quick brown fox jumps over the lazy dog and says one two three fine now " * 20


def make_tokenizer(directory: Path, template: str = TEMPLATE) -> Path:
    """Write it to `directory`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([_TEXT], trainer)
    made.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in ("<|turn|>", "<|end|>")]
    )
    made.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template})
    )
    return directory
