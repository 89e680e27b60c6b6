"""The languages of translators: codes that stand before or after a text, for sources and for targets."""

from collections.abc import Mapping
from typing import Any

from pellucid.errors import InputError, TokenizerError, did_you_mean

from .engine import Engine
from .families import Family, template

# In the order of their ids.
_MBART50 = """
    ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP
    nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN
    mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI
""".split()  # noqa: SIM905
_NLLB = """
    ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab arb_Arab ars_Arab
    ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl
    bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn
    cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn
    est_Latn eus_Latn ewe_Latn fao_Latn pes_Arab fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn
    gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn
    ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab
    kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn
    kon_Latn kor_Hang kmr_Latn lao_Laoo lvs_Latn lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn
    lua_Latn lug_Latn luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mkd_Cyrl plt_Latn mlt_Latn
    mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn nus_Latn
    nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn por_Latn prs_Arab pbt_Arab quy_Latn
    ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn
    sna_Latn snd_Arab som_Latn sot_Latn spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn
    szl_Latn tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn
    tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn
    vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zul_Latn
""".split()  # noqa: SIM905
_M2M_100 = """
    af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht
    hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps
    pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu
""".split()  # noqa: SIM905
_PLBART = ["java", "python", "en_XX", "javascript", "php", "ruby", "go"]
CODES = {
    "mbart": _MBART50[:25],
    "mbart50": _MBART50,
    "nllb": _NLLB,
    "m2m100": _M2M_100,
    "wmt21": ["en", "ha", "is", "ja", "cs", "ru", "zh", "de"],
    "base": _PLBART[:3],
    "multi": _PLBART,
}
_UNDERSCORED = ("m2m100", "wmt21", "base", "multi")  # whose tokens are codes between two underscores each side


def language_tokens(kind: str) -> dict[str, str]:
    """Return the token of each code, by the name of the list, in the order of ids."""
    return {code: f"__{code}__" if kind in _UNDERSCORED else code for code in CODES[kind]}


def language_kind(family: Family, settings: Mapping[str, Any]) -> str | None:
    """Return the name of the list of codes that a tokenizer has; None without languages.

    Raises:
        TokenizerError: if its files name a list that does not exist.
    """
    usual = family.options.get("languages")
    lists = {"m2m100": ("m2m100", "wmt21"), "base": ("base", "multi")}.get(usual or "", (usual,))
    kind = settings.get("language_codes", usual) if len(lists) > 1 else usual
    if kind not in lists:
        raise TokenizerError(f"language_codes is {kind!r}; expected {' or '.join(map(repr, lists))}.")
    return kind


class Languages:
    """The languages of a translator's tokenizer; a tokenizer of any other kind has none.

    A code is set for all calls, `tokenizer.src_lang = "fr_XX"`, or given to one, `tokenizer(text, src_lang="fr_XX")`.
    A call reads what is set once, at its start; threads that share a tokenizer and differ in languages give theirs.
    """

    family: Family
    _engine: Engine
    _extra: list[str]
    _language_tokens: dict[str, str]  # by code; empty without languages
    _src_lang: str | None
    _tgt_lang: str | None
    _framed: dict[str | None, tuple[Engine, Engine]]  # by language: an engine, and the same for this language
    _frame: tuple[str, str]

    @property
    def is_multilingual(self) -> bool:
        """Whether there are languages, whose codes stand beside texts."""
        return bool(self._language_tokens)

    @property
    def src_lang(self) -> str | None:
        """The code of the language of sources."""
        self._refuse_without("src_lang")
        return self._src_lang

    @src_lang.setter
    def src_lang(self, code: str | None) -> None:
        self._language_token(code, "src_lang")
        engine = self._in_language(self._engine, code)
        self._src_lang, self._engine = code, engine

    @property
    def tgt_lang(self) -> str | None:
        """The code of the language of targets; None for that of sources."""
        self._refuse_without("tgt_lang")
        return self._tgt_lang

    @tgt_lang.setter
    def tgt_lang(self, code: str | None) -> None:
        if code is not None:
            self._language_token(code, "tgt_lang")
        self._tgt_lang = code

    @property
    def lang_code_to_id(self) -> dict[str, int]:
        """The id of every language's token, by code."""
        self._refuse_without("lang_code_to_id")
        return {code: self._engine.rust.token_to_id(token) or 0 for code, token in self._language_tokens.items()}

    @property
    def supported_language_codes(self) -> list[str]:
        """What a text for Marian begins with to say into which language: `>>fr<<`; empty where there is no choice."""
        return getattr(self._engine, "codes", [])

    def get_lang_token(self, lang: str) -> str:
        """Return the token of a language.

        Raises:
            InputError: if there is no such language, or the tokenizer has none at all.
        """
        return self._language_token(lang, "lang") or ""

    def get_lang_id(self, lang: str) -> int:
        """Return the id of the token of a language; raises as `get_lang_token`."""
        return self._engine.rust.token_to_id(self.get_lang_token(lang)) or 0

    def _refuse_without(self, name: str) -> None:
        if not self._language_tokens:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}: it has no languages")

    def _language_token(self, code: str | None, name: str) -> str | None:
        """Return the token of a code; None where no language is a choice.

        Raises:
            InputError: naming the nearest code.
        """
        if not self._language_tokens:
            instead = (
                f"write {self.supported_language_codes[0]!r} before a text" if self.supported_language_codes else ""
            )
            raise InputError(
                f"{name} is {code!r}, but {type(self).__name__} has no languages; {instead or 'leave it out'}."
            )
        if code is None and self.family.options.get("source") is None:  # a text need not be in a language
            return None
        token = self._language_tokens.get(str(code))
        if token is None and code in (*self._language_tokens.values(), *self._extra):
            token = code
        if not isinstance(code, str) or token is None or self._engine.rust.token_to_id(token) is None:
            raise InputError(
                f"{name} is {code!r}, which is no language of this tokenizer"
                f"{did_you_mean(str(code), self._language_tokens) or '.'} tokenizer.lang_code_to_id has all "
                f"{len(self._language_tokens)}."
            )
        return token

    def _set_languages(self, settings: Mapping[str, Any]) -> None:
        """Take over what files and callers say about languages."""
        kind = language_kind(self.family, settings)
        named, find = language_tokens(kind) if kind else {}, self._engine.rust.token_to_id
        self._framed = {}
        self._language_tokens = {code: token for code, token in named.items() if find(token) is not None}
        self._src_lang = self._tgt_lang = None
        if not self._language_tokens:
            return
        legacy = settings.get("legacy_behaviour")
        self._frame = ("$A eos lang", "$A $B eos lang") if legacy else (self.family.single, self.family.pair)
        plain = {token: code for code, token in self._language_tokens.items()}
        usual = "en_XX" if kind == "multi" else self.family.options["source"]
        known = usual is None or usual in self._language_tokens
        source = settings.get("src_lang") or (usual if known else next(iter(self._language_tokens)))
        target = settings.get("tgt_lang")
        self.src_lang = plain.get(source, source) if source else None
        self.tgt_lang = plain.get(target, target) if target else None

    def _in_language(self, engine: Engine, code: str | None) -> Engine:
        """Return an engine that puts the code of a language beside each text."""
        known = self._framed.get(code)
        if known is None or known[0] is not engine:
            token = self._language_token(code, "language")
            single, pair = (part if token else part.replace(" lang", "") for part in self._frame)
            roles = {"lang_token": token, "eos_token": self.eos_token}  # type: ignore[attr-defined]
            known = engine, engine.framed(lambda rust: template(rust, single, pair, roles, type(self).__name__))
            self._framed[code] = known
        return known[1]

    def _engines(self, src_lang: str | None, tgt_lang: str | None) -> tuple[Engine, Engine]:
        """Return the engines for the sources and for the targets of one call."""
        engine = self._engine
        if not self._language_tokens:
            if src_lang is not None:
                self._language_token(src_lang, "src_lang")
            if tgt_lang is not None:
                self._language_token(tgt_lang, "tgt_lang")
            return engine, engine.target
        source = engine if src_lang is None else self._in_language(engine, self._checked(src_lang, "src_lang"))
        code = self._tgt_lang if tgt_lang is None else self._checked(tgt_lang, "tgt_lang")
        if code is None and self.family.options["source"] is not None:
            return source, source.target
        return source, self._in_language(engine, code).target  # which may be none

    def _checked(self, code: str, name: str) -> str:
        self._language_token(code, name)
        return code
