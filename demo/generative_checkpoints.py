"""Save the generative demo models the way published ones are saved, so that vLLM reads the same files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    Blip2ForConditionalGeneration,
    Blip2Processor,
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    VideoLlavaForConditionalGeneration,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

#: From the names inside transformers to those in published LLaVA files.
_LLAVA_NAMES = (
    (r"^model\.vision_tower\.", "vision_tower.vision_model."),
    (r"^model\.(image_tower|video_tower)\.", r"\1.vision_model."),
    (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)

#: As LLaVA-1.5's: pictures first, then the text; an answer ends with </s>. Plain strings are taken too.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- 'ASSISTANT: ' -}}
{%- elif message['role'] != 'system' -%}
{{- 'USER: ' -}}
{%- endif -%}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] in ('image', 'image_url', 'input_image') -%}
{{- '<image>\\n' -}}
{%- elif part['type'] in ('video', 'video_url', 'input_video') -%}
{{- '<video>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- for part in message['content'] if part['type'] in ('text', 'input_text') -%}
{{- part['text'] -}}
{%- if not loop.last -%}{{- ' ' -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}
{{- '</s>' -}}
{%- else -%}
{{- ' ' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'ASSISTANT:' -}}
{%- endif -%}
"""


#: BLIP-2 has no template of its own; this writes a chat in the form of its questions, and nothing for a lone
#: picture, which gets a caption. The processor puts the picture's tokens in front, and only one picture at that.
BLIP2_CHAT_TEMPLATE = """\
{%- for message in messages if message['role'] != 'system' -%}
{%- set ns = namespace(text='') -%}
{%- if message['content'] is string -%}
{%- set ns.text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] if part['type'] in ('text', 'input_text') -%}
{%- set ns.text = ns.text + (' ' if ns.text else '') + part['text'] -%}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}
{{- ' ' + ns.text + ' ' -}}
{%- elif ns.text -%}
{{- 'Question: ' + ns.text + ' Answer:' -}}
{%- endif -%}
{%- endfor -%}
"""


def clip_images(side: int) -> CLIPImageProcessorPil:
    """CLIP's own preprocessing at another size."""
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def save_llava(folder: Path, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a LLaVA with its processor."""
    vision = model.config.vision_config
    processor = LlavaProcessor(
        image_processor=clip_images(vision.image_size),
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)
    save_weights(folder, model, _LLAVA_NAMES)


def save_blip2(folder: Path, model: Blip2ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a BLIP-2 with its processor; the output layer, being the embedding again, is left out as published."""
    side = model.config.vision_config.image_size
    images = BlipImageProcessorPil(
        size={"height": side, "width": side}, image_mean=OPENAI_CLIP_MEAN, image_std=OPENAI_CLIP_STD
    )
    processor = Blip2Processor(images, tokenizer, num_query_tokens=model.config.num_query_tokens)
    processor.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(BLIP2_CHAT_TEMPLATE)
    save_weights(folder, model, (), without=("language_model.lm_head.weight",))


def save_video_llava(
    folder: Path, model: VideoLlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write a Video-LLaVA with its processor.

    The processor's own class wants a video processor, which exists only beside torchvision, so its file is written
    here: with torchvision the whole processor loads, without it the image processor and the tokenizer do.
    """
    vision = model.config.vision_config
    side = vision.image_size
    settings: dict[str, object] = {
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(OPENAI_CLIP_MEAN),
        "image_std": list(OPENAI_CLIP_STD),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
    }
    images = settings | {"image_processor_type": "VideoLlavaImageProcessor"}
    videos = settings | {"video_processor_type": "VideoLlavaVideoProcessor", "do_sample_frames": False}
    processor = {
        "processor_class": "VideoLlavaProcessor",
        "image_processor": images,
        "video_processor": videos,
        "image_token": "<image>",
        "video_token": "<video>",
        "patch_size": vision.patch_size,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    save_weights(folder, model, _LLAVA_NAMES)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    for name, content in (
        ("processor_config.json", processor),
        ("preprocessor_config.json", images),
        ("video_preprocessor_config.json", videos),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def save_weights(
    folder: Path, model: PreTrainedModel, names: Sequence[tuple[str, str]], without: Sequence[str] = ()
) -> None:
    """Write config, generation config, and the weights as float16 under renamed keys."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in without:
            continue
        published = name
        for pattern, replacement in names:
            published = re.sub(pattern, replacement, published)
        tensors[published] = tensor.detach().half().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": "float16"}
    type(model.config).from_dict(config).save_pretrained(folder)
    text = model.config.get_text_config()
    GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
    ).save_pretrained(folder)
