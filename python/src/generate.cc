#include "src/generate.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "generate/generation_batch.h"
#include "src/arguments.h"
#include "src/arrays.h"
#include "src/exclusive.h"
#include "src/model.h"
#include "src/tokenizer.h"

namespace coluber::python {
namespace {

using Path = std::filesystem::path;

// A Session and what it needs alive. The model is a handle: its parameters are those of the Python object.
class SessionObject {
 public:
  SessionObject(std::shared_ptr<const Model> model, Session session)
      : model_(std::move(model)), session_(std::move(session)) {}
  SessionObject(const SessionObject& other) : model_(other.model_), session_(other.copy()) {}

  // f(session, ctx) without the GIL.
  template <class F>
  auto use(F&& f) const {
    const Exclusive exclusive(busy_, "session");
    return in_context([&](Context& ctx) { return f(session_, ctx); });
  }
  Session copy() const {
    const Exclusive exclusive(busy_, "session");
    return session_;
  }
  const std::shared_ptr<const Model>& model() const { return model_; }
  const Session& peek() const { return session_; }

 private:
  std::shared_ptr<const Model> model_;
  mutable Session session_;
  mutable std::atomic<bool> busy_ = false;
};

SessionObject make_session(const Model& model, const SamplingOptions& options, const State* state,
                           std::int64_t vocab_size, std::uint64_t stream) {
  auto shared = std::make_shared<const Model>(model);
  Session session = state == nullptr ? Session(*shared, options, vocab_size, stream)
                                     : Session(*shared, options, *state, vocab_size, stream);
  return {std::move(shared), std::move(session)};
}

void append(const SessionObject& self, nb::handle ids) {
  const std::vector<std::int32_t> list = id_list_from(ids, "ids");
  self.use([&](Session& session, Context& ctx) {
    const std::span<const std::int32_t> all(list);
    constexpr auto kPiece = static_cast<std::size_t>(Session::kPrefillChunkTokens);
    for (std::size_t begin = 0; begin < all.size(); begin += kPiece) {
      if (begin > 0) check_signals();
      session.append(ctx, all.subspan(begin, std::min(kPiece, all.size() - begin)));
    }
  });
}

SessionObject load_session(const Path& path, const Model& model, const SamplingOptions& options,
                           std::int64_t vocab_size, std::uint64_t stream) {
  auto shared = std::make_shared<const Model>(model);
  const nb::gil_scoped_release released;
  Session session = Session::load(path.string(), *shared, options, vocab_size, stream);
  return {std::move(shared), std::move(session)};
}

// What Model.generate runs: rounds of a GenerationBatch until there is a piece to hand over.
class GenerationObject {
 public:
  GenerationObject(const Model& model, const Tokenizer* tokenizer,
                   const std::vector<std::vector<std::int32_t>>& prompts, GenerateOptions options,
                   const SessionObject* start, std::string algorithm)
      : model_(start == nullptr ? std::make_shared<const Model>(model) : start->model()),
        algorithm_(std::move(algorithm)) {
    if (tokenizer != nullptr) tokenizer_ = *tokenizer;
    if (start != nullptr) options.start = &start_.emplace(start->copy());
    options.on_prefill = [](std::size_t, std::int64_t, std::int64_t) { check_signals(); };
    batch_ = std::make_unique<GenerationBatch>(
        *model_, tokenizer_ ? &*tokenizer_ : nullptr, prompts, std::move(options), [this](const GeneratedPiece& piece) {
          pieces_.push_back({piece.prompt, piece.id, std::string(piece.text), piece.last});
        });
  }

  // (prompt, id or None, text, last), or None at the end.
  nb::object next() {
    const Exclusive exclusive(busy_, "generate");
    if (pieces_.empty() && batch_ != nullptr) {
      try {
        in_context([this](Context& ctx) { run(ctx); }, algorithm_);
      } catch (...) {
        end();
        throw;
      }
    }
    if (pieces_.empty()) {
      end();
      return nb::none();
    }
    const Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    const nb::object id = piece.id < 0 ? nb::object(nb::none()) : nb::object(nb::int_(piece.id));
    return nb::make_tuple(piece.prompt, id, piece.text, piece.last);
  }

  void close() {
    const Exclusive exclusive(busy_, "generate");
    pieces_.clear();
    end();
  }
  // A copy of what there is of prompt i.
  nb::tuple result(std::size_t i) const {
    const Exclusive exclusive(busy_, "generate");
    const std::vector<Generation>& all = batch_ != nullptr ? batch_->results() : results_;
    const Generation& one = all.at(i);
    nb::object session = nb::none();
    if (one.session) session = nb::cast(SessionObject(model_, *one.session));
    return nb::make_tuple(one.prompt_ids, one.ids, one.text, std::string(finish_reason_name(one.finish)), session);
  }

 private:
  struct Piece {
    std::size_t prompt;
    std::int32_t id;
    std::string text;
    bool last;
  };

  void run(Context& ctx) {
    for (bool first = true; pieces_.empty() && !batch_->finished(); first = false) {
      if (!first) check_signals();
      batch_->round(ctx);
    }
  }
  void end() {
    if (batch_ == nullptr) return;
    results_ = std::move(batch_->results());
    batch_.reset();
  }

  std::shared_ptr<const Model> model_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<Session> start_;
  std::string algorithm_;
  std::unique_ptr<GenerationBatch> batch_;
  std::deque<Piece> pieces_;
  std::vector<Generation> results_;
  mutable std::atomic<bool> busy_ = false;
};

std::unique_ptr<GenerationObject> start_generation(const Model& model, const Tokenizer* tokenizer, nb::handle prompts,
                                                   const SamplingOptions& sampling, std::int64_t max_tokens,
                                                   std::vector<std::string> stop, bool ignore_eos, std::int64_t batch,
                                                   std::uint64_t first_stream, const SessionObject* start,
                                                   bool keep_sessions, std::string algorithm) {
  algorithm_from(algorithm);
  std::vector<std::vector<std::int32_t>> ids;
  for (nb::handle prompt : prompts) ids.push_back(id_list_from(prompt, "prompt"));
  GenerateOptions options;
  options.sampling = sampling;
  options.max_new_tokens = max_tokens;
  options.stop = std::move(stop);
  options.stop_on_eos = !ignore_eos;
  options.batch_size = batch;
  options.first_stream = first_stream;
  options.keep_sessions = keep_sessions;
  return std::make_unique<GenerationObject>(model, tokenizer, ids, std::move(options), start, std::move(algorithm));
}

// SamplingOptions(temperature=...): each option under its name.
SamplingOptions sampling_options(const nb::args& positional, const nb::kwargs& named) {
  constexpr std::string_view kName = "SamplingOptions";
  if (const std::size_t count = positional.size(); count > 0) {
    throw nb::type_error(
        ("[SamplingOptions] arguments: expected each under its name, got " + std::to_string(count) + " without")
            .c_str());
  }
  SamplingOptions options;
  for (const std::pair<nb::handle, nb::handle> given : named) {
    const auto name = nb::cast<std::string>(given.first);
    bool is_known = false;
    const auto set = [&]<class T>(std::string_view option, T& to) {
      if (name != option) return;
      to = argument_as<T>(given.second, kName, option);
      is_known = true;
    };
    set("temperature", options.temperature);
    set("top_k", options.top_k);
    set("top_p", options.top_p);
    set("min_p", options.min_p);
    set("repetition_penalty", options.repetition_penalty);
    set("greedy", options.greedy);
    set("seed", options.seed);
    if (!is_known) throw nb::type_error(("[SamplingOptions] unexpected keyword argument '" + name + "'").c_str());
  }
  options.check();
  return options;
}

void bind_sampling(nb::module_& m) {
  nb::class_<SamplingOptions>(
      m, "SamplingOptions",
      "How tokens are drawn, in this order: repetition_penalty, greedy or temperature 0, temperature, top_k, top_p, "
      "min_p, then a draw with the number (seed, stream, index of the token).")
      .def(
          "__init__",
          [](SamplingOptions* self, const nb::args& positional, const nb::kwargs& named) {
            new (self) SamplingOptions(sampling_options(positional, named));
          },
          nb::sig("def __init__(self, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, "
                  "min_p: float = 0.0, repetition_penalty: float = 1.0, greedy: bool = False, seed: int = 0) -> None"))
      .def_ro("temperature", &SamplingOptions::temperature)
      .def_ro("top_k", &SamplingOptions::top_k)
      .def_ro("top_p", &SamplingOptions::top_p)
      .def_ro("min_p", &SamplingOptions::min_p)
      .def_ro("repetition_penalty", &SamplingOptions::repetition_penalty)
      .def_ro("greedy", &SamplingOptions::greedy)
      .def_ro("seed", &SamplingOptions::seed);
  m.def(
      "sampling_distribution",
      [](nb::handle logits, const SamplingOptions& options, nb::handle context) {
        const Tensor values = tensor_from(logits, "logits").to(kCpuDevice).to(DType::kF32).contiguous();
        const std::vector<std::int32_t> seen = id_list_from(context, "context");
        nb::list rows;
        for (const TokenProbability& p : sampling_distribution(
                 std::span(values.data<float>(), static_cast<std::size_t>(values.numel())), options, seen))
          rows.append(nb::make_tuple(p.id, p.probability));
        return rows;
      },
      nb::arg("logits"), nb::arg("options"), nb::arg("context") = nb::list(),
      "[(id, probability)] that a draw from logits (v) chooses from, in order of id.");
}

void bind_session(nb::module_& m) {
  nb::class_<SessionObject>(m, "Session")
      .def("append", &append, nb::arg("ids"))
      .def("next",
           [](const SessionObject& self) {
             return self.use([](Session& session, Context& ctx) { return session.next(ctx); });
           })
      .def_prop_ro("logits",
                   [](const SessionObject& self) {
                     return array_of(self.use([](Session& session, Context& ctx) { return session.logits(ctx); }));
                   })
      .def_prop_ro("state",
                   [](const SessionObject& self) {
                     return self.use([](Session& session, Context& ctx) { return State(session.state(ctx)); });
                   })
      .def_prop_ro("device", [](const SessionObject& self) { return device_name(self.model()->device()); })
      .def_prop_ro("num_tokens", [](const SessionObject& self) { return self.peek().num_tokens(); })
      .def_prop_ro("options", [](const SessionObject& self) { return self.peek().sampler().options(); })
      .def("copy", [](const SessionObject& self) { return SessionObject(self); })
      .def(
          "fork",
          [](const SessionObject& self, const SamplingOptions& options, std::uint64_t stream) {
            return SessionObject(self.model(), self.copy().fork(options, stream));
          },
          nb::arg("options"), nb::arg("stream"))
      .def(
          "save",
          [](const SessionObject& self, const Path& path) {
            self.use([&](Session& session, Context& ctx) { session.save(ctx, path.string()); });
          },
          nb::arg("path"));
  m.def("make_session", &make_session, nb::arg("model"), nb::arg("options"), nb::arg("state").none(),
        nb::arg("vocab_size"), nb::arg("stream"));
  m.def("load_session", &load_session, nb::arg("path"), nb::arg("model"), nb::arg("options"), nb::arg("vocab_size"),
        nb::arg("stream"));
}

}  // namespace

void bind_generate(nb::module_& m) {
  bind_sampling(m);
  bind_session(m);
  nb::class_<GenerationObject>(m, "Generation")
      .def("next", &GenerationObject::next)
      .def("close", &GenerationObject::close)
      .def("result", &GenerationObject::result, nb::arg("prompt"));
  m.def("generate", &start_generation, nb::arg("model"), nb::arg("tokenizer").none(), nb::arg("prompts"),
        nb::arg("sampling"), nb::arg("max_tokens"), nb::arg("stop"), nb::arg("ignore_eos"), nb::arg("batch"),
        nb::arg("first_stream"), nb::arg("start").none(), nb::arg("keep_sessions"), nb::arg("algorithm"));
  m.attr("MAX_GENERATE_BATCH") = kMaxGenerateBatch;
}

}  // namespace coluber::python
