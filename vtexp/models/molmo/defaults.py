"""What the published Molmo v1 config.json files leave out. No torch here: plans read it too."""

from __future__ import annotations

from typing import Any

#: Constants of the released model code that the published config.json files leave out
#: (openai CLIP ViT-L/14-336, truncated to the 23 layers that can be read).
DEFAULT_VISION_BACKBONE: dict[str, Any] = {
    "image_model_type": "openai",
    "image_default_input_size": [336, 336],
    "image_patch_size": 14,
    "image_emb_dim": 1024,
    "image_num_heads": 16,
    "image_num_layers": 23,
    "image_head_dim": 64,
    "image_mlp_dim": 4096,
    "image_num_pos": 577,
    "image_norm_eps": 1e-5,
}
DEFAULT_CONNECTOR: dict[str, Any] = {
    "vit_layers": [-2, -9],
    "image_pooling_h": 2,
    "image_pooling_w": 2,
}


#: Fields of MolmoE's config.json, which keeps the names of the training code.
MOLMOE_NAMES = {
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "n_layers": "num_hidden_layers",
}
