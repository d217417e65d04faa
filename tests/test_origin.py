"""Marks of origin: what is written into a picture's file, read again, and signed."""

import dataclasses
import io
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from PIL import Image

import kgen
from kgen import images, origin

PICTURE = np.random.default_rng(0).integers(0, 256, (10, 14, 3), "uint8")
ORIGIN = origin.Origin('a "model" of <é>', "a" * 64, "b" * 64)
MASK = np.arange(24).reshape(4, 6) % 5 == 0
CLAIMS = {
    "one": ORIGIN.claim("generate", [2**31 - 1], 3, {"temperature": np.float32(0.7), "steps": 4}),
    "no seed": ORIGIN.claim("decode"),
    "grid": ORIGIN.claim("generate", range(5), [0, 1, 2, 0, 1]).in_grid(scale=4),
    "parts of a grid": ORIGIN.claim(
        "complete",
        np.arange(4),
        [1, 1, 1, 1],
        {"strength": np.float32([0.1, 0.2, 0.3, 0.4])},
        {"image": ["#0", "#0", "#3", "#3"], "mask": origin.mask_text(MASK)},
    ).in_grid(3, cells=np.array([1, 2, 4, 5])),
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_what_is_written_is_read(claim):
    png = images.encode_png(PICTURE, claim)
    assert png == images.encode_png(PICTURE, claim), "the same picture, the same bytes"
    assert origin.read(png)["claim"] == claim
    with Image.open(io.BytesIO(png)) as image:  # which looks at the checksums
        np.testing.assert_array_equal(np.asarray(image), PICTURE)


def test_each_row_has_its_own_claim(tmp_path):
    claim = CLAIMS["parts of a grid"]
    images.save_folder(np.stack([PICTURE] * 4), tmp_path / "out", claim=claim)
    row = origin.read(tmp_path / "out" / "2.png")["claim"]
    assert (row.seeds, row.labels, row.options["strength"]) == ((2,), (1,), 0.3)
    assert row.inputs == {**claim.inputs, "image": "#3"} and row.grid is None


def test_masks_are_kept_to_the_bit():
    np.testing.assert_array_equal(origin.mask_of(origin.mask_text(MASK)), MASK)
    for wrong in ("4x6:AAAA", "0x6:", "4x6", "99999x99999:"):
        with pytest.raises(ValueError, match="is no mask"):
            origin.mask_of(wrong)


def test_other_programs_find_what_iptc_asks_for():
    """In the place and the words of the standards: XMP's for PNG, IPTC's digital source type."""
    png = images.encode_png(PICTURE, CLAIMS["one"])
    assert png[33 + 4 : 33 + 30] == b"iTXtXML:com.adobe.xmp\0\0\0\0\0", "not compressed"
    text = Image.open(io.BytesIO(png)).info["xmp"].decode()
    assert text.startswith('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>')
    [description] = ElementTree.fromstring(text).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    iptc = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    types = "http://cv.iptc.org/newscodes/digitalsourcetype/"
    assert description.get(iptc) == f"{types}trainedAlgorithmicMedia"
    assert description.get("{http://ns.adobe.com/xap/1.0/}CreatorTool") == (
        f"kgen {kgen.__version__}"
    )
    made_of_another = origin.read(images.encode_png(PICTURE, CLAIMS["parts of a grid"]))
    assert made_of_another["source_type"] == f"{types}compositeWithTrainedAlgorithmicMedia"


def marked(text):
    data = origin.CHUNK_HEAD + text.encode()
    return origin.insert(images.encode_png(PICTURE), origin.chunk(data))


def test_a_packet_that_others_have_written_anew():
    """With elements for attributes, as tools do that change something else in it; and in a JPEG."""
    claim = CLAIMS["one"]
    packet = claim.packet()
    for name, text in claim.fields().items():
        attribute = next(a for q in "'\"" if (a := f" kgen:{name}={q}") in packet)
        begin = packet.index(attribute)
        end = packet.index(attribute[-1], begin + len(attribute)) + 1
        element = f"<kgen:{name}>{packet[begin + len(attribute) : end - 1]}</kgen:{name}>"
        packet = packet[:begin] + packet[end:].replace(
            "/></rdf:RDF>", "></rdf:Description></rdf:RDF>"
        )
        packet = packet.replace("</rdf:Description>", f"{element}</rdf:Description>")
        assert text
    assert origin.read(marked(packet))["claim"] == claim
    jpeg = io.BytesIO()
    Image.fromarray(PICTURE).save(jpeg, "JPEG", xmp=claim.packet().encode())
    assert origin.read(jpeg.getvalue())["claim"] == claim


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("seed", "-1"),
        ("seed", "1 2"),
        ("seed", "2147483648"),
        ("seed", "7" * 5000),
        ("label", "1 2"),
        ("modelSha256", "A" * 64),
        ("endpoint", "a/b"),
        ("options", "[]"),
        ("options", '{"temperature":{"a":1}}'),
        ("options", '{"temperature":[1,2]}'),
        ("inputs", '{"image":1}'),
        ("grid", '{"columns":0}'),
        ("grid", '{"columns":1,"rows":2}'),
        ("grid", '{"columns":1,"cells":[-1]}'),
        ("grid", '{"columns":1,"cells":[]}'),
        ("grid", "{" * 100_000),
    ],
)
def test_what_kgen_does_not_write_is_refused(field, text):
    claim = ORIGIN.claim("generate", [7])
    packet = origin.packet(claim.source_type, claim.creator, {**claim.fields(), field: text})
    with pytest.raises(ValueError, match="claims what kgen does not write"):
        origin.read(marked(packet))


def test_what_says_nothing_of_kgen(tmp_path):
    nothing = {"source_type": None, "creator": None, "claim": None}
    bomb = '<!DOCTYPE a [<!ENTITY a "b">]>' + CLAIMS["one"].packet()
    for png in (images.encode_png(PICTURE), marked("<no XML"), marked(bomb), marked("")):
        assert origin.read(png) == nothing
    other = origin.packet("http://cv.iptc.org/x", "Another 1.0", {})
    assert origin.read(marked(other)) == {
        **nothing, "source_type": "http://cv.iptc.org/x", "creator": "Another 1.0"
    }  # fmt: skip
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png is no PNG, JPEG or WebP"):
        origin.read(tmp_path / "text.png")
    with pytest.raises(ValueError, match="The picture is damaged"):
        origin.read(images.encode_png(PICTURE, CLAIMS["one"])[:200])


def test_a_model_is_named_by_all_of_it():
    """To the last bit of the last weight."""
    model = kgen.models.VAE.from_preset("vae_tiny", num_classes=3)
    first, weight = origin.of_model(model), model.weights[-1]
    assert first.model == model.name and len(first.model_sha256) == 64
    before = keras.ops.convert_to_numpy(weight).copy()
    weight.assign(before + 1e-6)
    assert origin.of_model(model) != first
    weight.assign(before)
    assert origin.of_model(model) == first
    model.test_steps.assign(7)  # as evaluating does
    assert origin.of_model(model) == first


# Content Credentials ----------------------------------------------------------------------


def test_content_credentials(certificates):
    """A picture is signed whole, its mark too; who vouches for the signer is for the reader."""
    from kgen import credentials

    signer = credentials.Signer(certificates / "mail.pem", certificates / "signer_key.pem")
    claim = dataclasses.replace(CLAIMS["one"], signer=signer)
    png = images.encode_png(PICTURE, claim)
    assert origin.read(png)["claim"] == claim
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), PICTURE)
    expected = {
        "state": "valid",
        "signer": "signer",
        "issuer": "Tests",
        "source_types": [claim.source_type],
        "wrong": [],
    }
    assert credentials.read(png) == expected
    assert credentials.read(png, certificates / "root.pem") == {**expected, "state": "trusted"}
    place = png.index(b'kgen:seed="') + len(b'kgen:seed="')
    data = bytearray(png)
    data[place] ^= 1  # of the mark, whose chunk then has a wrong checksum too
    found = credentials.read(bytes(data), certificates / "root.pem")
    assert found["state"] == "invalid" and "hash" in found["wrong"][0]
    assert credentials.read(images.encode_png(PICTURE, CLAIMS["one"])) is None


@pytest.mark.parametrize(
    ("chain", "key", "message"),
    [
        ("mail.pem", "other_key.pem", "do not sign Content Credentials"),
        ("root.pem", "root_key.pem", "self-signed"),
        ("web.pem", "signer_key.pem", "emailProtection or documentSigning"),
        ("mail.pem", "root.pem", "root.pem holds no private key"),
        ("nothing.pem", "signer_key.pem", "nothing.pem cannot be read"),
    ],
)
def test_what_cannot_sign_is_refused(certificates, chain, key, message):
    from kgen import credentials

    with pytest.raises(ValueError, match=message):
        credentials.Signer(certificates / chain, certificates / key)
