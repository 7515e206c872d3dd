"""The tokenizer of the small presets: 1,024 ids, laid out like the released one, made by code instead of shipped.

Words of the tasks are one token each, other words are spelled, and what is no character of the list goes byte by byte,
so that every text has ids. 0 to 2 are ``<unk>``, ``<s>``, ``</s>``, then come 256 bytes, pieces, and from 704 on 256
actions; 960 is ``<PAD>``.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

SIZE = 1024
ACTIONS, PAD_ID = 256, 960
SPACE, SPACE_ID = "\u2581", 259
_NEVER = -1000.0

_CHARACTERS = SPACE + "\n" + "abcdefghijklmnopqrstuvwxyz0123456789" + ".,:;?!'\"()-_/+&%#*=<>"
_ENDINGS = "ed er es est ing ion ly or s th"
_PROMPT = "In What Out action should the robot take to"
_WORDS = """
a able above across adjust after again against align all along an and apple approach arm around as assemble assembly
at attach away back bag ball banana bar base basket battery be before behind below beneath beside between big bin
black block blue board body bolt book both bottle bottom bowl box bread bring brown brush bucket button by cable can
cap card carefully carrot carry cell center charger chip circle circular clamp clean clear clip close closed closest
cloth cloud color cone connect connector container copper corner correct cover cube cup cut cyan cylinder dark deep
detach device dish displayport done door down drag drawer drill drive drop dry each edge either empty end engage
ethernet every face far fasten fill find finger first fit fix fixture flat flip fold for four frame from front fruit
full fully gap gear gently get glass glue go gold grab grasp gray green grey grip gripper groove ground half hand
handle hang hard hdmi head heavy hex hexagon hexagonal hold hole hook housing in inner insert insertion inside into is
it item its key knife knob large lay leave left lemon lever lid lift light lightly line little lock long lower make
marker mat match matching metal middle mount mouse move mug near nearest neck next nut object of off on once one onion
onto open opening orange other out outer outlet over paper part pass peach pear peg pen pencil pepper pick pin pink
pipe place plastic plate play plug plus point port position pot potato pour power press pull purple push put rack
raise reach rectangle rectangular red release remove return right ring rod roll rotate round row rubber safely same
scoop screw screwdriver seal seat second set shape shelf short side silver slide slightly slot slowly small socket
soft spoon square stack stand star steel stick stop straight strip switch table take tape them then thick thin third
this three through tighten tilt tip tool top touch toward towards towel toy track tray triangle trigger tube turn
twist two type under unlock unplug until up upper upright usb usb-c use valve vga wall wash water way wedge wheel
white wide wire with wooden xlr yellow
"""


def nano_tokenizer() -> Tokenizer:
    """The tokenizer of the small presets; the same at every call."""
    marks = [(mark, _NEVER) for mark in ("<unk>", "<s>", "</s>")]
    spelled = [(f"<0x{byte:02X}>", -100.0) for byte in range(256)]
    words = dict.fromkeys(SPACE + word for word in f"{_PROMPT} {_WORDS}".split())
    # all pieces cost the same, so that the segmentation is the one with the fewest
    known = [(piece, -10.0) for piece in dict.fromkeys([*_CHARACTERS, *_ENDINGS.split(), "Out", *words])]
    pieces = marks + spelled + known
    room = PAD_ID - ACTIONS - len(pieces)
    assert room >= 0, f"{-room} words too many"
    pieces += [(f"<free{i}>", _NEVER) for i in range(room)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    added = [piece for piece, _ in marks] + [f"<action{i}>" for i in range(ACTIONS)] + ["<PAD>"]
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in added])
    return tokenizer
