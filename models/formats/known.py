"""Which fields of public files are followed, and which leave vectors as they are.

A field that is in neither list may change what the public model computes, so it is refused by
name.

Source: huggingface/transformers 4.57 and 5.23, and sentence-transformers 5 and 6.2.
"""

from __future__ import annotations

from collections.abc import Collection

from models.formats.folder import Fields

# Followed or checked by `models.formats.model_types`.
_ENCODER = """
    vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size
    max_position_embeddings model_type is_decoder add_cross_attention position_embedding_type
    hidden_act layer_norm_eps pad_token_id type_vocab_size relative_attention_num_buckets dim
    n_layers n_heads hidden_dim activation num_key_value_heads sliding_window
    partial_rotary_factor use_bias head_dim norm_epsilon rope_theta rope_parameters rope_scaling
    norm_eps norm_bias attention_bias
    mlp_bias hidden_activation global_rope_theta local_rope_theta local_attention
    global_attn_every_n_layers layer_types matryoshka_dimensions conditional_size is_causal
    use_bidirectional_attention pruned_heads quantization_config auto_map is_encoder_decoder
    tokenizer_class
"""
_TRAINING = """
    attention_probs_dropout_prob hidden_dropout_prob attention_dropout dropout embedding_dropout
    mlp_dropout residual_dropout qa_dropout seq_classif_dropout classifier_dropout initializer_range
    initializer_cutoff_factor gradient_checkpointing sparse_prediction sparse_pred_ignore_index
    layerdrop
"""
_HEADS = """
    sbert_ce_default_activation_function sentence_transformers
    architectures id2label label2id num_labels problem_type classifier_activation classifier_bias
    classifier_pooling decoder_bias tie_word_embeddings tie_weights_ finetuning_task
    task_specific_params directionality pooler_fc_size pooler_num_attention_heads
    pooler_num_fc_layers pooler_size_per_head pooler_type summary_type summary_use_proj
    summary_activation summary_proj_to_labels summary_first_dropout
"""
_RUNNING = """
    _name_or_path name_or_path _commit_hash _attn_implementation_autoset _attn_implementation
    attn_implementation transformers_version torch_dtype dtype use_cache output_attentions
    output_hidden_states output_past return_dict return_dict_in_generate output_scores torchscript
    use_bfloat16 chunk_size_feed_forward sinusoidal_pos_embds reference_compile
    repad_logits_with_grad deterministic_flash_attn bos_token_id eos_token_id sep_token_id
    cls_token_id mask_token_id unk_token_id decoder_start_token_id
"""
_GENERATION = """
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id
    forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens cross_attention_hidden_size prefix tf_legacy_loss
"""
CONFIG = frozenset(f"{_ENCODER} {_TRAINING} {_HEADS} {_RUNNING} {_GENERATION}".split())

# Followed or checked by `models.formats.tokenizer`.
_TOKENIZER = """
    tokenizer_class model_max_length max_len do_lower_case tokenize_chinese_chars strip_accents
    add_prefix_space truncation_side split_special_tokens auto_map init_inputs fix_mistral_regex
    added_tokens_decoder additional_special_tokens extra_special_tokens bos_token eos_token
    unk_token sep_token pad_token cls_token mask_token
"""
_CALLS = """
    padding_side pad_to_multiple_of pad_token_type_id padding max_length stride truncation_strategy
    truncation return_token_type_ids mask_padding_side model_input_names max_seq_length
"""
_FILES = """
    name_or_path special_tokens_map_file tokenizer_file vocab_file merges_file full_tokenizer_file
    is_local local_files_only processor_class backend device_map from_slow vocab_size
"""
_ELSEWHERE = """
    clean_up_tokenization_spaces spaces_between_special_tokens do_basic_tokenize never_split
    wordpieces_prefix use_fast is_fast errors trim_offsets chat_template sp_model_kwargs
    add_bos_token add_eos_token verbose model_specific_special_tokens response_template
    chat_control_tokens
"""
TOKENIZER_CONFIG = frozenset(f"{_TOKENIZER} {_CALLS} {_FILES} {_ELSEWHERE}".split())


def check_known(fields: Fields, known: Collection[str]) -> None:
    """Refuse a field that is not known; one that is null is as good as missing.

    Raises:
        FormatError: Naming the first.
    """
    for name in sorted(fields.values):
        if name not in known and fields.values[name] is not None:
            raise fields.error(
                name, "no such field: it is not known to leave vectors as they are; remove it if so"
            )
