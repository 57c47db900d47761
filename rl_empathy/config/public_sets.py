"""Where the public sets come from that formats are named after."""

PUBLIC_SETS = {
    "counselchat": "github.com/nbertagnolli/counsel-chat (MIT)",
    "smile": "github.com/qiuhuachuan/smile (CC0 1.0)",
    "psyqa": "github.com/thu-coai/PsyQA (on a signed agreement with its authors)",
    "esconv": "github.com/thu-coai/Emotional-Support-Conversation (CC BY-NC 4.0)",
    "empathetic_dialogues": "github.com/facebookresearch/EmpatheticDialogues (CC BY-NC 4.0)",
}
"""By format; with the licence that its authors name."""
