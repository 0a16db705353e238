"""Video-LLaVA for vLLM, which has no such class: two CLIP towers, one projector, Llama (Lin et al. 2023).

The arithmetic follows transformers' `VideoLlavaForConditionalGeneration`: both towers give the hidden states of layer
`vision_feature_layer`; an image drops its CLS token (with the strategy `default`), a video keeps it in every frame, so
an image has `patches` tokens and a video `(patches + 1) * frames`. Registered by `vllm_plugin`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import BatchFeature, VideoLlavaConfig, VideoLlavaProcessor
from vllm.config import VllmConfig
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.llava import LlavaMultiModalProjector, init_vision_tower_for_llava
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.model_executor.models.vision import get_num_selected_vision_tokens, get_vision_encoder_info
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems, VideoProcessorItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)
from vllm.sequence import IntermediateTensors

# Frames of the largest video that is planned for, unless `limit_mm_per_prompt` says otherwise.
_MOST_FRAMES = 64


class VideoLlavaProcessingInfo(BaseProcessingInfo):
    """Sizes of the model's media in tokens."""

    def get_hf_config(self) -> Any:
        """The checkpoint's `VideoLlavaConfig`."""
        return self.ctx.get_hf_config(VideoLlavaConfig)

    def get_hf_processor(self, **kwargs: object) -> VideoLlavaProcessor:
        """The checkpoint's processor."""
        return self.ctx.get_hf_processor(VideoLlavaProcessor, **kwargs)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """As many of each as the context window holds."""
        return {"image": None, "video": None}

    @property
    def image_size(self) -> int:
        """Side of the square that every picture and frame becomes, in pixels."""
        return int(get_vision_encoder_info(self.get_hf_config()).get_image_size())

    @property
    def frame_tokens(self) -> int:
        """Tokens of one frame: its patches and CLS."""
        encoder = get_vision_encoder_info(self.get_hf_config())
        return int(encoder.get_num_image_tokens(image_width=self.image_size, image_height=self.image_size))

    @property
    def image_tokens(self) -> int:
        """Tokens of one image."""
        strategy = self.get_hf_config().vision_feature_select_strategy
        return int(get_num_selected_vision_tokens(self.frame_tokens, strategy))

    def most_frames(self, tokens: int) -> int:
        """Frames of a video that fills `tokens`."""
        return max(1, min(_MOST_FRAMES, tokens // self.frame_tokens))


class VideoLlavaDummyInputs(BaseDummyInputsBuilder[VideoLlavaProcessingInfo]):
    """The largest inputs, by which vLLM sizes its encoder cache."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """One placeholder for each item."""
        processor = self.info.get_hf_processor()
        return str(
            processor.image_token * mm_counts.get("image", 0) + processor.video_token * mm_counts.get("video", 0)
        )

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: MultiModalDummyOptions
    ) -> MultiModalDataDict:
        """Blank pictures and videos of the model's size."""
        side = self.info.image_size
        videos = mm_counts.get("video", 0)
        return {
            "image": self._get_dummy_images(
                width=side, height=side, num_images=mm_counts.get("image", 0), overrides=mm_options.get("image")
            ),
            "video": self._get_dummy_videos(
                width=side,
                height=side,
                num_frames=self.info.most_frames(seq_len // max(1, videos)),
                num_videos=videos,
                overrides=mm_options.get("video"),
            ),
        }


class VideoLlavaMultiModalProcessor(BaseMultiModalProcessor[VideoLlavaProcessingInfo]):
    """Pixels from media, and placeholders from `<image>` and `<video>`."""

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        videos = hf_data.get("videos")
        if not isinstance(videos, list) or len(videos) < 2:
            return super()._call_hf_processor(hf_data, hf_kwargs)
        # The processor stacks its videos, so those of different lengths go one by one.
        images = {key: value for key, value in hf_data.items() if key != "videos"}
        made = super()._call_hf_processor(images, hf_kwargs) if images else BatchFeature()
        each = [super(type(self), self)._call_hf_processor({"videos": [video]}, hf_kwargs) for video in videos]
        made["pixel_values_videos"] = [one["pixel_values_videos"][0] for one in each]
        return made

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {
            "pixel_values_images": MultiModalFieldConfig.batched("image"),
            "pixel_values_videos": MultiModalFieldConfig.batched("video"),
        }

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        config = self.info.get_hf_config()

        def video_tokens(index: int) -> list[int]:
            frames = mm_items.get_items("video", VideoProcessorItems).get_num_frames(index)
            return [config.video_token_index] * (frames * self.info.frame_tokens)

        return [
            PromptReplacement(
                modality="image",
                target=[config.image_token_index],
                replacement=[config.image_token_index] * self.info.image_tokens,
            ),
            PromptReplacement(modality="video", target=[config.video_token_index], replacement=video_tokens),
        ]


@MULTIMODAL_REGISTRY.register_processor(
    VideoLlavaMultiModalProcessor, info=VideoLlavaProcessingInfo, dummy_inputs=VideoLlavaDummyInputs
)
class VideoLlavaForConditionalGeneration(nn.Module, SupportsMultiModal, SupportsPP):
    """See the module. Weights are taken under the names of the hub, of transformers 4.52 and later, and of 5."""

    packed_modules_mapping = {  # noqa: RUF012  # read by vLLM from the class
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_regex={
            re.compile(r"^model\.(image_tower|video_tower|multi_modal_projector)\."): r"\1.",
            re.compile(r"^model\.language_model\."): "language_model.model.",
            re.compile(r"^lm_head\."): "language_model.lm_head.",
            # transformers 5 saves a CLIP tower without the level that vLLM's class, and the hub, has.
            re.compile(r"^(image|video)_tower\.(?!vision_model\.)"): r"\1_tower.vision_model.",
        }
    )

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """What stands for an item in a prompt."""
        if modality in ("image", "video"):
            return f"<{modality}>"
        raise ValueError(f"Video-LLaVA reads images and videos, not {modality}")

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        quant_config = vllm_config.quant_config
        if not isinstance(config.vision_feature_layer, int):
            raise ValueError("vision_feature_layer is a list; Video-LLaVA is served with a single layer")
        self.config = config
        self.multimodal_config = vllm_config.model_config.multimodal_config
        self.configure_mm_token_handling(
            vocab_size=config.text_config.vocab_size,
            mm_token_ids=[config.image_token_index, config.video_token_index],
        )

        def tower(name: str) -> nn.Module:
            return init_vision_tower_for_llava(
                config, quant_config=quant_config, require_post_norm=False, prefix=maybe_prefix(prefix, name)
            )

        with self._mark_tower_model(vllm_config, {"image", "video"}):
            self.image_tower = tower("image_tower")
            self.video_tower = tower("video_tower")
            self.multi_modal_projector = LlavaMultiModalProjector(
                vision_hidden_size=config.vision_config.hidden_size,
                text_hidden_size=config.text_config.hidden_size,
                projector_hidden_act=config.projector_hidden_act,
                multimodal_projector_bias=config.multimodal_projector_bias,
                quant_config=quant_config,
                prefix=maybe_prefix(prefix, "multi_modal_projector"),
            )
        with self._mark_language_model(vllm_config):
            llama: Any = init_vllm_registered_model(
                vllm_config=vllm_config, hf_config=config.text_config, prefix=maybe_prefix(prefix, "language_model")
            )
            self.language_model = llama
        self.make_empty_intermediate_tensors = llama.make_empty_intermediate_tensors

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """Embeddings of each item, (tokens, hidden); images before videos, as vLLM asks for one kind at a time."""
        embeddings: list[torch.Tensor] = []
        images: Any = kwargs.get("pixel_values_images")
        if images is not None:
            features = self.image_tower(
                _stacked(images), feature_select_strategy=self.config.vision_feature_select_strategy
            )
            embeddings.extend(self.multi_modal_projector(features))
        videos: Any = kwargs.get("pixel_values_videos")
        if videos is not None:
            # Videos may differ in length, so their frames run as one batch and part again.
            frames = self.video_tower(torch.cat(list(videos)), feature_select_strategy="full")
            split = torch.split(self.multi_modal_projector(frames), [len(video) for video in videos])
            embeddings.extend(video.flatten(0, 1) for video in split)
        return embeddings

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> torch.Tensor | IntermediateTensors:
        """Hidden states, (tokens, hidden)."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        hidden: torch.Tensor | IntermediateTensors = self.language_model.model(
            input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds
        )
        return hidden

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Logits, (tokens, vocabulary)."""
        logits: torch.Tensor | None = self.language_model.compute_logits(hidden_states)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads a checkpoint; returns the names that it filled."""
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)

    def get_mm_mapping(self) -> MultiModelKeys:
        """Prefixes of the model's parts."""
        return MultiModelKeys.from_string_field(
            language_model="language_model",
            connector="multi_modal_projector",
            tower_model=["image_tower", "video_tower"],
        )


def _stacked(items: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    return items if isinstance(items, torch.Tensor) else torch.stack(items)
