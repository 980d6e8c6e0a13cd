"""Dimensions: `text` and `vision` hold exactly the keys that config.json gets.

The published files leave out what equals a library default, and so do these: a loader has to know the defaults.
"""

from dataclasses import dataclass, field

ADDED_TOKENS = (
    ["<global-img>"]
    + [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    + ["<fake_token_around_image>", "<image>"]
    + [f"<|reserved_special_token_{i}|>" for i in range(88)]
    + ["<end_of_utterance>"]
)


@dataclass(frozen=True)
class Size:
    """One model size."""

    base_vocab: int  # ids below it are the BPE's, the added tokens follow
    scale_factor: int  # pixel shuffle, per side
    longest_edge: int  # pixels of the longer side before tiling
    tile: int  # pixels per side of a tile
    max_frames: int
    text: dict = field(hash=False)
    vision: dict = field(hash=False)
    parameters: int | None = None  # as published, to check against

    @property
    def vocab(self) -> int:
        return self.base_vocab + len(ADDED_TOKENS)

    @property
    def image_seq_len(self) -> int:
        side = self.vision["image_size"] // self.vision["patch_size"] // self.scale_factor
        return side * side


def _small(parameters: int, **text) -> Size:
    return Size(
        base_vocab=49152, scale_factor=4, longest_edge=2048, tile=512, max_frames=64, parameters=parameters,
        text=dict(head_dim=64, rope_theta=100000, max_position_embeddings=8192, **text),
        vision=dict(hidden_size=768, num_attention_heads=12, image_size=512, patch_size=16),
    )


SIZES = {
    "tiny": Size(
        base_vocab=384, scale_factor=3, longest_edge=96, tile=24, max_frames=8,
        text=dict(hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                  head_dim=16, rope_theta=100000, max_position_embeddings=8192),
        vision=dict(hidden_size=48, intermediate_size=112, num_hidden_layers=2, num_attention_heads=3, image_size=24,
                    patch_size=4),
    ),
    "256m": _small(256_484_928, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                   num_key_value_heads=3),
    "500m": _small(507_482_304, hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15,
                   num_key_value_heads=5),
    "2.2b": Size(
        base_vocab=49152, scale_factor=3, longest_edge=1536, tile=384, max_frames=64, parameters=2_246_784_880,
        text=dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, head_dim=64, rope_theta=130000,
                  max_position_embeddings=8192),
        vision=dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=384,
                    patch_size=14),
    ),
}
