#include "src/train.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/machine.h"
#include "apps/train_setup.h"
#include "src/arrays.h"
#include "src/exclusive.h"
#include "src/model.h"
#include "src/token_ids.h"
#include "src/tokenizer.h"
#include "train/loss_picture.h"

namespace coluber::python {
namespace {

std::vector<std::pair<std::int64_t, double>> pairs_of(const std::vector<LossPoint>& points) {
  std::vector<std::pair<std::int64_t, double>> pairs;
  for (const LossPoint& point : points) pairs.emplace_back(point.step, point.loss);
  return pairs;
}

std::vector<LossPoint> points_of(const std::vector<std::pair<std::int64_t, double>>& pairs) {
  std::vector<LossPoint> points;
  for (const auto& [step, loss] : pairs) points.push_back({step, loss});
  return points;
}

// Where batches come from when they are the caller's: source(index) gives (ids, targets or None, resets or None).
Batches batches_from(nb::object source) {
  // The last handle may go while no thread of ours holds the GIL.
  const std::shared_ptr<nb::object> held(new nb::object(std::move(source)), [](nb::object* object) {
    const nb::gil_scoped_acquire gil;
    delete object;
  });
  return [held](std::int64_t index) {
    const nb::gil_scoped_acquire gil;
    const nb::object parts = (*held)(index);
    Batch batch;
    batch.ids = ids_from(parts[0], "ids of a batch").contiguous();
    if (batch.ids.rank() != 2 || batch.ids.numel() == 0) {
      throw Error(ErrorCode::kInvalidArgument, "train",
                  "ids of batch " + std::to_string(index) + ": expected (b,l) with a token, got " +
                      batch.ids.shape().to_string());
    }
    batch.targets = parts[1].is_none() ? next_tokens(batch.ids) : ids_from(parts[1], "targets of a batch").contiguous();
    batch.sequences.resets = tensor_from(parts[2], "resets of a batch");
    return batch;
  };
}

std::shared_ptr<const TokenStore> store_of(nb::handle ids, std::int64_t vocab_size, std::int64_t eos_id) {
  if (ids.is_none()) return nullptr;
  std::vector<std::int32_t> list = id_list_from(ids, "data");
  if (const auto below = std::find_if(list.begin(), list.end(), [](std::int32_t id) { return id < 0; });
      below != list.end()) {
    throw Error(ErrorCode::kInvalidArgument, "train",
                "data: expected token ids of 0 or more, got " + std::to_string(*below));
  }
  return TokenStore::of(std::move(list), vocab_size, {}, eos_id);
}

// What Python says of a training; each part may be missing.
struct Source {
  std::optional<Model> model;
  std::optional<Tokenizer> tokenizer;
  nb::object ids, heldout_ids;  // tokens in memory
  nb::object batches, heldout_batches;
  std::int64_t num_heldout_batches = 0;
  std::int64_t vocab_size = 0;
};

class TrainerObject {
 public:
  // `words`: flags of `coluber train`. `work`: a folder for token files when nothing is to be kept.
  TrainerObject(std::vector<std::string> words, const std::string& work, Source source, int num_threads) {
    parse(std::move(words));
    if (flags_.threads == 0) flags_.threads = num_threads;
    std::shared_ptr<const Tokenizer> tokenizer;
    if (source.tokenizer) tokenizer = std::make_shared<const Tokenizer>(*source.tokenizer);
    const std::int64_t eos_id = tokenizer ? tokenizer->eos_id() : -1;
    const auto store = store_of(source.ids, source.vocab_size, eos_id);
    const auto heldout = store_of(source.heldout_ids, source.vocab_size, eos_id);
    const bool own_batches = !source.batches.is_none();
    Batches batches = own_batches ? batches_from(source.batches) : Batches{};
    Batches held = source.heldout_batches.is_none() ? Batches{} : batches_from(source.heldout_batches);
    const nb::gil_scoped_release released;
    checkpoint_ = apps::take_checkpoint(flags_, *bindings_);
    apps::check_train_flags(flags_);
    // For as long as the folder is prepared. Trainer::run takes its own: what a traceback keeps alive must not hold it.
    std::shared_ptr<TrainingLock> lock;
    if (!flags_.out.empty()) lock = apps::prepare_out(flags_, !checkpoint_.empty());
    if (own_batches) {
      data_.tokenizer = std::move(tokenizer);
    } else {
      open_data(std::move(tokenizer), store, heldout, work);
      batches = data_.train_batches(flags_);
      held = data_.heldout_batches(flags_);
    }
    choose_model(source);
    if (flags_.overwrite && checkpoint_.empty() && !flags_.out.empty())
      apps::remove_earlier_training(flags_.out, data_);
    TrainOptions options =
        own_batches ? batch_options(source.num_heldout_batches) : apps::train_options(flags_, *bindings_, data_);
    num_eval_batches_ = options.eval_batches;
    ctx_.emplace(flags_.context());
    trainer_ =
        std::make_unique<Trainer>(*ctx_, *model_, std::move(batches), std::move(options), std::move(held), callbacks());
    if (!checkpoint_.empty()) trainer_->resume(checkpoint_);
  }

  // f(trainer) without the GIL; its callbacks go to `hooks`.
  template <class F>
  auto use(nb::handle hooks, F&& f) {
    const Exclusive exclusive(busy_, "train");
    hooks_ = hooks;
    interrupted_ = false;
    const nb::gil_scoped_release released;
    return f(*trainer_);
  }
  // "done", "stopped" by a callback, or "interrupted" by Ctrl-C; saved in any case.
  std::string run(nb::handle hooks) {
    const TrainEnd end = use(hooks, [](Trainer& trainer) { return trainer.run(); });
    if (end == TrainEnd::kDone) return "done";
    return interrupted_ ? "interrupted" : "stopped";
  }

  const Model& model() const { return *model_; }
  const Trainer& trainer() const { return *trainer_; }
  const apps::TrainData& data() const { return data_; }
  const apps::TrainFlags& flags() const { return flags_; }
  std::int64_t num_eval_batches() const { return num_eval_batches_; }

 private:
  void parse(std::vector<std::string> words) {
    bindings_.emplace(apps::add_train_flags(app_, flags_));
    apps::settle_options(app_);
    std::reverse(words.begin(), words.end());
    try {
      app_.parse(std::move(words));
    } catch (const CLI::ParseError& error) {
      throw Error(ErrorCode::kInvalidArgument, "train", apps::describe_parse_error(app_, error));
    }
    flags_.quiet = true;
  }

  void open_data(std::shared_ptr<const Tokenizer> tokenizer, const std::shared_ptr<const TokenStore>& store,
                 const std::shared_ptr<const TokenStore>& heldout, const std::string& work) {
    if (store != nullptr) {
      data_ = apps::open_train_tokens(flags_, std::move(tokenizer), store, heldout);
      return;
    }
    apps::TrainFlags here = flags_;
    if (here.out.empty()) here.out = work;
    data_ = apps::open_train_data(here, checkpoint_, check_signals);
  }

  void choose_model(const Source& source) {
    if (source.model) {
      model_ = *source.model;
    } else if (!checkpoint_.empty()) {
      model_ = Model::load(checkpoint_).to(flags_.chosen_device());
    } else if (!data_.train) {
      throw Error(ErrorCode::kInvalidArgument, "train", "model: expected one beside batches of your own, got none");
    } else {
      model_ = apps::create_model(flags_, data_);
    }
    const std::int64_t rows = model_->config().padded_vocab_size();
    if (data_.train && data_.vocab_size() > rows) {
      throw Error(ErrorCode::kInvalidArgument, "train",
                  "vocabulary of the data: expected at most " + std::to_string(rows) +
                      " tokens, the rows of the model, got " + std::to_string(data_.vocab_size()));
    }
  }

  TrainOptions batch_options(std::int64_t num_heldout_batches) const {
    TrainOptions options = apps::learning_options(flags_);
    options.eval_batches = num_heldout_batches;
    if (!data_.tokenizer) options.sample_every = 0;
    options.out = flags_.out;
    options.name = flags_.name;
    options.settings = bindings_->to_json().dump(-1, ' ', false, apps::Json::error_handler_t::replace);
    options.card_rows = {{"Data", "batches made by a program"}};
    return options;
  }

  template <class... Arguments>
  void call(const char* hook, Arguments&&... arguments) {
    const nb::gil_scoped_acquire gil;
    if (hooks_.is_none()) return;
    try {
      hooks_.attr(hook)(std::forward<Arguments>(arguments)...);
    } catch (const nb::python_error& error) {
      note_interrupt(error);
    }
  }

  // Ctrl-C waits until everything is saved; Python raises it again. All else goes on its way.
  void note_interrupt(const nb::python_error& error) {
    if (!error.matches(PyExc_KeyboardInterrupt)) throw;
    interrupted_ = true;
  }

  TrainCallbacks callbacks() {
    TrainCallbacks calls;
    calls.on_step = [this](const StepReport& r) {
      call("on_step", r.step, r.total_steps, r.loss, r.lr, r.grad_norm, r.tokens, r.seconds, r.tokens_per_s);
    };
    calls.on_eval = [this](const EvalReport& r) {
      call("on_eval", r.step, r.loss.mean(), r.loss.num_tokens, r.bits_per_byte);
    };
    calls.on_sample = [this](std::int64_t step) { call("on_sample", step); };
    calls.on_checkpoint = [this](const std::string& folder) { call("on_checkpoint", folder); };
    calls.add_files = [this](const std::string& folder) {
      if (data_.tokenizer) data_.tokenizer->save(folder);
    };
    calls.should_stop = [this] { return should_stop(); };
    return calls;
  }

  bool should_stop() {
    const nb::gil_scoped_acquire gil;
    try {
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
      if (!interrupted_ && !hooks_.is_none()) return nb::cast<bool>(hooks_.attr("should_stop")());
    } catch (const nb::python_error& error) {
      note_interrupt(error);
    }
    return interrupted_;
  }

  CLI::App app_{"", "train"};
  apps::TrainFlags flags_;
  std::optional<apps::FlagBindings> bindings_;
  std::string checkpoint_;
  apps::TrainData data_;
  std::optional<Model> model_;
  std::optional<Context> ctx_;
  std::unique_ptr<Trainer> trainer_;
  std::int64_t num_eval_batches_ = 0;
  nb::handle hooks_ = nb::none();  // of the call that runs
  bool interrupted_ = false;
  std::atomic<bool> busy_ = false;
};

std::unique_ptr<TrainerObject> make_trainer(std::vector<std::string> words, const std::string& work,
                                            const std::optional<Model>& model,
                                            const std::optional<Tokenizer>& tokenizer, nb::object ids,
                                            nb::object heldout_ids, std::int64_t vocab_size, nb::object batches,
                                            nb::object heldout_batches, std::int64_t num_heldout_batches,
                                            int num_threads) {
  return std::make_unique<TrainerObject>(
      std::move(words), work,
      Source{model, tokenizer, std::move(ids), std::move(heldout_ids), std::move(batches), std::move(heldout_batches),
             num_heldout_batches, vocab_size},
      num_threads);
}

nb::dict estimate(TrainerObject& self, nb::handle hooks) {
  const TrainEstimate e = self.use(
      hooks, [&](Trainer& trainer) { return trainer.estimate(apps::available_memory_bytes(self.model().device())); });
  nb::dict d;
  d["parameter_bytes"] = e.parameter_bytes;
  d["optimizer_bytes"] = e.optimizer_bytes;
  d["peak_bytes"] = e.peak_bytes;
  d["step_seconds"] = e.step_seconds;
  d["eval_seconds"] = e.eval_seconds;
  d["total_steps"] = e.total_steps;
  d["total_seconds"] = e.total_seconds;
  return d;
}

void bind_trainer(nb::class_<TrainerObject>& trainer) {
  trainer.def("run", &TrainerObject::run, nb::arg("hooks").none())
      .def("estimate", &estimate, nb::arg("hooks").none())
      .def(
          "step",
          [](TrainerObject& self, nb::handle hooks) {
            const StepReport r = self.use(hooks, [](Trainer& t) { return t.step(); });
            return nb::make_tuple(r.step, r.total_steps, r.loss, r.lr, r.grad_norm, r.tokens, r.seconds,
                                  r.tokens_per_s);
          },
          nb::arg("hooks").none())
      .def(
          "evaluate",
          [](TrainerObject& self, nb::handle hooks) {
            if (self.num_eval_batches() == 0)
              throw Error(ErrorCode::kInvalidArgument, "train", "heldout: expected data to measure on, got none");
            const EvalReport r = self.use(hooks, [](Trainer& t) { return t.evaluate(); });
            return nb::make_tuple(r.step, r.loss.mean(), r.loss.num_tokens, r.bits_per_byte);
          },
          nb::arg("hooks").none())
      .def(
          "save",
          [](TrainerObject& self, nb::handle hooks) { return self.use(hooks, [](Trainer& t) { return t.save(); }); },
          nb::arg("hooks").none())
      .def_prop_ro("model", [](const TrainerObject& self) { return Model(self.model()); })
      .def_prop_ro("tokenizer",
                   [](const TrainerObject& self) {
                     const auto& tokenizer = self.data().tokenizer;
                     return tokenizer ? std::optional<Tokenizer>(*tokenizer) : std::nullopt;
                   })
      .def_prop_ro(
          "first_words",
          [](const TrainerObject& self) { return self.data().train ? apps::first_words(self.data()) : std::string(); })
      .def_prop_ro("sample_prompts", [](const TrainerObject& self) { return self.flags().sample_prompts; })
      .def_prop_ro("sample_tokens", [](const TrainerObject& self) { return self.flags().sample_tokens; })
      .def_prop_ro("seed", [](const TrainerObject& self) { return self.flags().seed; })
      .def_prop_ro("out", [](const TrainerObject& self) { return self.flags().out; })
      .def_prop_ro("num_steps", [](const TrainerObject& self) { return self.trainer().num_steps(); })
      .def_prop_ro("losses", [](const TrainerObject& self) { return pairs_of(self.trainer().train_losses()); })
      .def_prop_ro("heldout_losses",
                   [](const TrainerObject& self) { return pairs_of(self.trainer().heldout_losses()); });
}

}  // namespace

void bind_train(nb::module_& m) {
  nb::class_<TrainerObject> trainer(m, "Trainer");
  bind_trainer(trainer);
  m.def("make_trainer", &make_trainer, nb::arg("words"), nb::arg("work"), nb::arg("model").none(),
        nb::arg("tokenizer").none(), nb::arg("ids").none(), nb::arg("heldout_ids").none(), nb::arg("vocab_size"),
        nb::arg("batches").none(), nb::arg("heldout_batches").none(), nb::arg("num_heldout_batches"),
        nb::arg("num_threads"));
  m.def(
      "loss_picture",
      [](const std::string& title, const std::vector<std::pair<std::int64_t, double>>& train,
         const std::vector<std::pair<std::int64_t, double>>& heldout) {
        return draw_loss_picture({title, points_of(train), points_of(heldout)});
      },
      nb::arg("title"), nb::arg("train"), nb::arg("heldout"), "The curves as an SVG.");
}

}  // namespace coluber::python
