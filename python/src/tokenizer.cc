#include "src/tokenizer.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <filesystem>
#include <optional>
#include <string>

#include "src/arrays.h"
#include "src/token_ids.h"
#include "text/train_tokenizer.h"

namespace coluber::python {
namespace {

using Path = std::filesystem::path;

// The bytes of a str, as UTF-8, or of a bytes. They live as long as the object.
std::string_view text_of(nb::handle text, const char* name) {
  Py_ssize_t size = 0;
  if (PyUnicode_Check(text.ptr()) != 0) {
    const char* const p = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (p == nullptr) throw nb::python_error();  // half of a surrogate pair
    return {p, static_cast<std::size_t>(size)};
  }
  char* p = nullptr;
  if (PyBytes_Check(text.ptr()) != 0 && PyBytes_AsStringAndSize(text.ptr(), &p, &size) == 0)
    return {p, static_cast<std::size_t>(size)};
  throw nb::type_error((std::string("[tokenizer] ") + name + ": expected str or bytes, got " +
                        nb::cast<std::string>(nb::inst_name(text)))
                           .c_str());
}

std::vector<std::int32_t> encode(const Tokenizer& self, nb::handle text, bool parse_special, bool add_bos,
                                 bool add_eos) {
  const std::string_view bytes = text_of(text, "text");
  const nb::gil_scoped_release released;
  return self.encode(bytes, {parse_special, add_bos, add_eos});
}

std::string decode_to_bytes(const Tokenizer& self, nb::handle ids, bool skip_special) {
  const std::vector<std::int32_t> list = id_list_from(ids, "ids");
  const nb::gil_scoped_release released;
  return self.decode_bytes(list, {skip_special});
}

std::string decode(const Tokenizer& self, nb::handle ids, bool skip_special) {
  const std::vector<std::int32_t> list = id_list_from(ids, "ids");
  const nb::gil_scoped_release released;
  return self.decode(list, {skip_special});
}

nb::object optional_id(std::int64_t id) {
  return id < 0 ? nb::object(nb::none()) : nb::object(nb::int_(id));
}

nb::bytes bytes_of(const std::string& text) {
  return nb::bytes(text.data(), text.size());
}

nb::object id_of(const Tokenizer& self, nb::handle piece) {
  const std::optional<std::int32_t> id = self.token_id(text_of(piece, "piece"));
  return optional_id(id ? *id : -1);
}

Tokenizer train(const std::vector<Path>& files, std::int64_t vocab_size, const std::string& kind,
                const std::string& model_type, std::int64_t min_count, std::int64_t max_bytes,
                const std::string& end_of_text, const std::string& separator, const std::string& text_field,
                nb::object progress) {
  if (kind != "bpe" && kind != "sentencepiece")
    throw Error(ErrorCode::kInvalidArgument, "tokenizer", "kind: expected bpe or sentencepiece, got " + kind);
  std::vector<std::string> paths;
  for (const Path& file : files) paths.push_back(file.string());
  TokenizerTraining training;
  training.vocab_size = vocab_size;
  training.min_count = min_count;
  training.max_bytes = max_bytes;
  training.end_of_text = end_of_text;
  training.progress = [&](double share, const std::string& doing) {
    check_signals();
    if (progress.is_none()) return;
    const nb::gil_scoped_acquire gil;
    progress(share, doing);
  };
  CorpusOptions options;
  options.text_field = text_field;
  options.separator = document_separator_from_name(separator);
  const nb::gil_scoped_release released;
  const Corpus corpus = Corpus::open(paths, options);
  return kind == "bpe" ? *train_bpe(corpus, training) : *train_sentencepiece(corpus, training, model_type);
}

std::string repr(const Tokenizer& self) {
  const auto id = [](std::int64_t i) { return i < 0 ? std::string("None") : std::to_string(i); };
  return "coluber.Tokenizer(" + std::string(tokenizer_kind_name(self.kind())) + ", " +
         std::to_string(self.vocab_size()) + " tokens, bos_id=" + id(self.bos_id()) + ", eos_id=" + id(self.eos_id()) +
         (self.lossless() ? "" : ", not lossless") + ")";
}

void bind_encoding(nb::class_<Tokenizer>& tokenizer) {
  const char* const options =
      "parse_special: special tokens spelled in the text become their ids; text of strangers wants False. add_bos, "
      "add_eos: the ids of the begin and end of text around it; ValueError when there are none.";
  tokenizer
      .def("encode", &encode, nb::arg("text"), nb::kw_only(), nb::arg("parse_special") = true,
           nb::arg("add_bos") = false, nb::arg("add_eos") = false,
           (std::string("Token ids of a str or bytes, as a list of int. ") + options).c_str())
      .def(
          "encode_array",
          [](const Tokenizer& self, nb::handle text, bool parse_special, bool add_bos, bool add_eos) {
            const std::vector<std::int32_t> ids = encode(self, text, parse_special, add_bos, add_eos);
            return Tensor::of({static_cast<std::int64_t>(ids.size())}, ids);
          },
          nb::arg("text"), nb::kw_only(), nb::arg("parse_special") = true, nb::arg("add_bos") = false,
          nb::arg("add_eos") = false, "encode() as one i32 Array: for long texts.")
      .def("decode", &decode, nb::arg("ids"), nb::kw_only(), nb::arg("skip_special") = false,
           "The text of ids (a sequence or array of integers). Bytes that form no character come out as U+FFFD. "
           "skip_special: special tokens decode to nothing.")
      .def(
          "decode_bytes",
          [](const Tokenizer& self, nb::handle ids, bool skip_special) {
            return bytes_of(decode_to_bytes(self, ids, skip_special));
          },
          nb::arg("ids"), nb::kw_only(), nb::arg("skip_special") = false,
          "decode() without that repair: decode_bytes(encode(x)) == x for every x when lossless.");
}

void bind_vocabulary(nb::class_<Tokenizer>& tokenizer) {
  tokenizer.def_prop_ro("vocab_size", &Tokenizer::vocab_size, "One more than the largest id with a text.")
      .def("__len__", &Tokenizer::vocab_size)
      .def_prop_ro(
          "kind", [](const Tokenizer& self) { return std::string(tokenizer_kind_name(self.kind())); },
          "'bytes', 'bpe' or 'sentencepiece'.")
      .def_prop_ro("lossless", &Tokenizer::lossless, "Whether decode_bytes(encode(x)) == x for every x.")
      .def_prop_ro("fingerprint", &Tokenizer::fingerprint, "The same for equal content, another for any other.")
      .def_prop_ro(
          "bos_id", [](const Tokenizer& self) { return optional_id(self.bos_id()); },
          nb::sig("def bos_id(self) -> int | None"), "Of the begin of text; None when there is none.")
      .def_prop_ro(
          "eos_id", [](const Tokenizer& self) { return optional_id(self.eos_id()); },
          nb::sig("def eos_id(self) -> int | None"), "Of the end of text; None when there is none.")
      .def("token_id", &id_of, nb::arg("piece"), nb::sig("def token_id(self, piece: object) -> int | None"),
           "Of the token spelled so in the file ('<s>'); None: there is none.")
      .def("token_piece", &Tokenizer::token_piece, nb::arg("id"), "How the token is spelled in the file.")
      .def(
          "token_bytes", [](const Tokenizer& self, std::int32_t id) { return bytes_of(self.token_bytes(id)); },
          nb::arg("id"), "What the token adds to a text.")
      .def("is_special", &Tokenizer::is_special, nb::arg("id"))
      .def("__repr__", &repr)
      .def("_repr_html_", [](const Tokenizer& self) { return "<code>" + repr(self) + "</code>"; })
      .def(
          "__eq__",
          [](const Tokenizer& self, nb::handle other) -> nb::object {
            if (!nb::isinstance<Tokenizer>(other)) return nb::borrow(Py_NotImplemented);
            return nb::bool_(self.fingerprint() == nb::cast<const Tokenizer&>(other).fingerprint());
          },
          nb::arg("other").none(), nb::sig("def __eq__(self, other: object) -> bool"))
      .def("__hash__", [](const Tokenizer& self) { return static_cast<std::int64_t>(self.fingerprint() >> 2); });
}

void bind_files(nb::class_<Tokenizer>& tokenizer) {
  tokenizer
      .def_static(
          "load",
          [](const Path& path) {
            const nb::gil_scoped_release released;
            return *Tokenizer::load(path.string());
          },
          nb::arg("path"),
          "tokenizer.json, a SentencePiece model, a folder with either, or the word 'bytes'. FileNotFoundError; "
          "ValueError for a file that is cut or contradicts itself; NotImplementedError naming the part that this "
          "build does not know.")
      .def_static(
          "bytes", [] { return *Tokenizer::bytes(); }, "256 ids, one for each byte; no special token.")
      .def_static(
          "from_json", [](nb::handle json) { return *Tokenizer::from_json(text_of(json, "json")); }, nb::arg("json"),
          "From the text of a tokenizer.json.")
      .def(
          "save",
          [](const Tokenizer& self, const Path& path) {
            const nb::gil_scoped_release released;
            self.save(path.string());
          },
          nb::arg("path"), "A file, written atomically; or a folder, which gets the name that load() looks for.")
      .def(
          "stream_decoder",
          [](const Tokenizer& self, bool skip_special) { return StreamDecoder(self, {skip_special}); }, nb::kw_only(),
          nb::arg("skip_special") = false, "A StreamDecoder of this tokenizer.");
}

void bind_stream_decoder(nb::module_& m) {
  nb::class_<StreamDecoder>(
      m, "StreamDecoder",
      "Decodes one token at a time, whole characters only: everything fed and flushed is decode() "
      "of the same ids. Holds back at most three bytes that may still become a character.")
      .def(nb::new_(
               [](const Tokenizer& tokenizer, bool skip_special) { return StreamDecoder(tokenizer, {skip_special}); }),
           nb::arg("tokenizer"), nb::kw_only(), nb::arg("skip_special") = false)
      .def("feed", &StreamDecoder::feed, nb::arg("id"), "The text that has become certain; may be empty.")
      .def("flush", &StreamDecoder::flush, "What was held back, as U+FFFD; afterwards a new text begins.")
      .def("__copy__", [](const StreamDecoder& self) { return StreamDecoder(self); });
}

}  // namespace

std::vector<std::int32_t> id_list_from(nb::handle ids, std::string_view name) {
  const Tensor tensor = ids_from(ids, name).contiguous();
  if (tensor.rank() != 1) {
    throw Error(ErrorCode::kInvalidArgument, "tokens",
                std::string(name) + ": expected one axis of token ids, got shape " + tensor.shape().to_string());
  }
  const auto* const p = tensor.data<std::int32_t>();
  return {p, p + tensor.numel()};
}

void bind_tokenizer(nb::module_& m) {
  nb::class_<Tokenizer> tokenizer(
      m, "Tokenizer",
      "Text to token ids and back: bytes, byte-pair encoding from a tokenizer.json, or SentencePiece. Immutable; any "
      "number of threads may use one at once.");
  bind_files(tokenizer);
  bind_encoding(tokenizer);
  bind_vocabulary(tokenizer);
  bind_stream_decoder(m);
  m.def("train_tokenizer", &train, nb::arg("files"), nb::arg("vocab_size"), nb::arg("kind"), nb::arg("model_type"),
        nb::arg("min_count"), nb::arg("max_bytes"), nb::arg("end_of_text"), nb::arg("separator"), nb::arg("text_field"),
        nb::arg("progress").none());
}

}  // namespace coluber::python
