"""Every method, score and form, with settings that fit the tiny CLIP of the golden numbers."""

NAMES = ["forest", "sea or lake", "annual crop land"]
SENTENCES = {name: [f"a photo of a {name}.", f"a {name} from above."] for name in NAMES}
ALIGN = {"M": 2, "N": 2, "DEPTH": 2}

# Method, keys of its node and, where it matters, the data set.
SETTINGS = {
    "CoOp": ("CoOp", {"N_CTX": 4}),
    "CoOp, a context for each class": ("CoOp", {"N_CTX": 4, "CSC": True}),
    "CoOp, class name in the middle": ("CoOp", {"N_CTX": 4, "CLASS_TOKEN_POSITION": "middle"}),
    "CoCoOp": ("CoCoOp", {"N_CTX": 4}),
    "VPT": ("VPT", {"PROMPT_DEPTH_VISION": 2}),
    "IVLP": ("IVLP", {"PROMPT_DEPTH_VISION": 2, "PROMPT_DEPTH_TEXT": 2}),
    "MaPLe": ("MaPLe", {"PROMPT_DEPTH": 2}),
    "UPT": ("UPT", {"PROMPT_DEPTH": 2}),
    "KgCoOp": ("KgCoOp", {"N_CTX": 4}),
    "ProGrad": ("ProGrad", {"N_CTX": 4}),
    "PromptSRC": ("PromptSRC", {"PROMPT_DEPTH_VISION": 2, "PROMPT_DEPTH_TEXT": 2}),
    "TCP": ("TCP", {"INSERT_BLOCK": 2}),
    "CoPrompt": ("CoPrompt", {"PROMPT_DEPTH": 2, "SENTENCES": SENTENCES}),
    "PLOT": ("PLOT", {"N_CTX": 4}),
    "PLOT on ImageNet": ("PLOT", {"N_CTX": 4}, "ImageNet"),
    "MMP": ("MMP", {"TEXT_PROMPT_DEPTH": 2}),
    "MMP without tokens": ("MMP", {"TEXT_PROMPT_DEPTH": 2, "HIERARCHICAL": False}),
    "ALIGN": ("ALIGN", ALIGN),
    "ALIGN, beta 0": ("ALIGN", ALIGN | {"BETA": 0.0}),
    "ALIGN, convex": ("ALIGN", ALIGN | {"BETA": 0.5, "BETA_FORM": "convex"}),
    "ALIGN, independent": ("ALIGN", ALIGN | {"COUPLING": "independent"}),
    "ALIGN, unified": ("ALIGN", ALIGN | {"COUPLING": "unified"}),
    "ALIGN, one side": ("ALIGN", ALIGN | {"N": 0}),
    "ALIGN, released": ("ALIGN", ALIGN | {"FORM": "released"}),
    "ALIGN, uniform": ("ALIGN", ALIGN | {"PLAN": "uniform"}),
    "ALIGN, nearest": ("ALIGN", ALIGN | {"PLAN": "nearest"}),
    "ALIGN, small lambda": ("ALIGN", ALIGN | {"LAMBDA": 0.02}),
    "ALIGN, regularised": (
        "ALIGN", ALIGN | {"REGULARIZERS": ["kg", "scl_text", "scl_image", "scl_logits"]},
    ),
    "CLIPLoRA": ("CLIPLoRA", {}),
    "MultiModalAdapter": ("MultiModalAdapter", {"ADAPTER_START": 2, "ADAPTER_END": 4}),
    "MMRL": ("MMRL", {"REP_LAYERS": [2, 3, 4], "REP_DIM": 32}),
    "GalLoP": ("GalLoP", {"TOPK": [2, 4, 6, 8]}),
    "CLIPAdapter": ("CLIPAdapter", {}),
    "TipAdapterF": ("TipAdapterF", {"SCALE": 0.0}),
    "CLAP": ("CLAP", {}),
}  # fmt: skip
PRECISIONS = ("fp32", "fp16", "amp")
