"""The CNN zoo of the original Dassl is not part of this engine; importing it says so."""

raise ImportError(
    "dassl.modeling (CNN backbones, heads, MixStyle and other ops of the original Dassl) is out "
    "of scope here: this engine tunes CLIP-like models, whose networks come from the clip "
    "package. Build the network in your trainer's build_model instead of calling "
    "dassl.modeling.build_backbone or build_head."
)
