#include "src/state.h"

#include <nanobind/operators.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/arrays.h"

namespace coluber::python {
namespace {

using Path = std::filesystem::path;

std::int64_t checked_row(const State& state, std::int64_t i) {
  if (i >= 0 && i < state.batch()) return i;
  throw nb::index_error(("[state] row: expected 0 to " + std::to_string(state.batch() - 1) + ", the sequences of the " +
                         "state, got " + std::to_string(i))
                            .c_str());
}

Tensor float_copy(nb::handle array, const std::string& name) {
  const Tensor tensor = tensor_from(array, name);
  if (tensor.defined() && tensor.rank() == 3 && (tensor.dtype() == DType::kF32 || tensor.dtype() == DType::kF64))
    return tensor.clone();
  const std::string got =
      tensor.defined() ? tensor.shape().to_string() + " of " + std::string(dtype_name(tensor.dtype())) : "None";
  throw Error(ErrorCode::kInvalidArgument, "state", name + ": expected three axes of f32 or f64, got " + got);
}

State from_layers(nb::handle layers, std::int64_t num_tokens) {
  std::vector<LayerState> copies;
  for (nb::handle layer : layers) {
    const std::string name = "layer " + std::to_string(copies.size());
    if (nb::isinstance<LayerState>(layer)) {
      const auto& own = nb::cast<const LayerState&>(layer);
      copies.push_back({own.conv.clone(), own.ssm.clone()});
      continue;
    }
    if (PySequence_Check(layer.ptr()) == 0 || nb::len(layer) != 2)
      throw nb::type_error(("[state] " + name + ": expected a pair of arrays (conv, ssm)").c_str());
    copies.push_back({float_copy(layer[0], name + ", conv"), float_copy(layer[1], name + ", ssm")});
    const LayerState& own = copies.back();
    if (own.conv.size(0) != own.ssm.size(0) || own.conv.size(1) != own.ssm.size(1) ||
        own.ssm.size(0) != copies[0].ssm.size(0) || own.conv.dtype() != own.ssm.dtype()) {
      throw Error(ErrorCode::kInvalidArgument, "state",
                  name + ": expected conv (b,d,k-1) and ssm (b,d,n) of one dtype and the b of layer 0, got " +
                      own.conv.shape().to_string() + " and " + own.ssm.shape().to_string());
    }
  }
  for (const LayerState& layer : copies) {
    for (const Tensor* part : {&layer.conv, &layer.ssm}) {
      if (part->device() == copies[0].conv.device()) continue;
      throw Error(ErrorCode::kInvalidArgument, "state",
                  "device of an array: expected " + device_name(copies[0].conv.device()) + " as the first, got " +
                      device_name(part->device()));
    }
  }
  if (num_tokens < 0)
    throw Error(ErrorCode::kInvalidArgument, "state",
                "num_tokens: expected 0 or more, got " + std::to_string(num_tokens));
  return State(std::move(copies), num_tokens);
}

Device device_of(const State& state) {
  return state.num_layers() == 0 ? kCpuDevice : state.layer(0).ssm.device();
}

nb::list layers_of(const State& state) {
  nb::list layers;
  for (std::size_t i = 0; i < state.num_layers(); ++i) layers.append(nb::cast(state.layer(i)));
  return layers;
}

std::string repr(const State& state) {
  std::string text = "coluber.State(batch=" + std::to_string(state.batch()) +
                     ", num_tokens=" + std::to_string(state.num_tokens()) +
                     ", layers=" + std::to_string(state.num_layers());
  if (state.num_layers() > 0)
    text += ", conv " + state.layer(0).conv.shape().to_string() + ", ssm " + state.layer(0).ssm.shape().to_string();
  if (!device_of(state).is_cpu()) text += ", device='" + device_name(device_of(state)) + "'";
  return text + ", " + std::to_string(state.size_bytes()) + " bytes)";
}

std::string html(const State& state) {
  std::string rows;
  const auto row = [&](const std::string& name, const std::string& value) {
    rows += "<tr><th style='text-align:left'>" + name + "</th><td>" + value + "</td></tr>";
  };
  row("sequences", std::to_string(state.batch()));
  row("tokens read", std::to_string(state.num_tokens()));
  row("layers", std::to_string(state.num_layers()));
  if (state.num_layers() > 0) {
    row("conv of each (b,d,k-1)", state.layer(0).conv.shape().to_string());
    row("ssm of each (b,d,n)", state.layer(0).ssm.shape().to_string());
  }
  row("bytes", std::to_string(state.size_bytes()));
  return "<table><caption>coluber.State</caption>" + rows + "</table>";
}

void bind_values(nb::class_<State>& state) {
  state.def_prop_ro("batch", &State::batch, "Sequences.")
      .def_prop_ro("num_tokens", &State::num_tokens, "Tokens read so far, per sequence; packed rows: all together.")
      .def_prop_ro("num_layers", &State::num_layers)
      .def_prop_ro("size_bytes", &State::size_bytes, "The same for any number of tokens.")
      .def_prop_ro(
          "device", [](const State& self) { return device_name(device_of(self)); }, "'cpu' or 'cuda:0'.")
      .def_prop_ro("layers", &layers_of, nb::sig("def layers(self) -> list[LayerState]"),
                   "A LayerState for each layer: conv (b,d,k-1) and ssm (b,d,n) as arrays over the state's own memory, "
                   "so writing to them changes it.")
      .def("__repr__", &repr)
      .def("_repr_html_", &html)
      .def(
          "__eq__",
          [](const State& self, nb::handle other) -> nb::object {
            if (!nb::isinstance<State>(other)) return nb::borrow(Py_NotImplemented);
            return nb::bool_(self.equals(nb::cast<const State&>(other)));
          },
          nb::arg("other").none(), nb::sig("def __eq__(self, other: object) -> bool"),
          "Whether both hold the same bits.");
  state.attr("__hash__") = nb::none();
}

}  // namespace

void bind_state(nb::module_& m) {
  nb::class_<LayerState>(m, "LayerState", "What one mixer remembers: conv (b,d,k-1) and ssm (b,d,n).")
      .def_prop_ro(
          "conv", [](const LayerState& layer) { return array_of(layer.conv); }, nb::sig("def conv(self) -> Array"),
          "(b,d,k-1): the last raw inputs of the convolution, oldest first.")
      .def_prop_ro(
          "ssm", [](const LayerState& layer) { return array_of(layer.ssm); }, nb::sig("def ssm(self) -> Array"),
          "(b,d,n).");
  nb::class_<State> state(
      m, "State",
      "Everything that a model remembers of the tokens it has read, as a value: Model.make_state makes one, forward "
      "and "
      "step read it and write it in place. One thread at a time may use a State; fork() gives another its own.");
  bind_values(state);
  const auto copy = [](const State& self) { return State(self); };
  state.def("fork", copy, "A copy with memory of its own; both go on from here.")
      .def("__copy__", copy)
      .def(
          "__deepcopy__", [](const State& self, nb::handle) { return State(self); }, nb::arg("memo"))
      .def(
          "to", [](const State& self, std::string_view device) { return self.to(device_from_name(device)); },
          nb::arg("device"), "A copy on a device: 'cpu', 'cuda', 'cuda:1'.")
      .def("reset", &State::reset, "Back to before the first token, in place.")
      .def(
          "row", [](const State& self, std::int64_t i) { return self.row(checked_row(self, i)); }, nb::arg("i"),
          "A copy of the state of sequence i. IndexError when there is none.")
      .def(
          "set_row", [](State& self, std::int64_t i, const State& one) { self.set_row(checked_row(self, i), one); },
          nb::arg("i"), nb::arg("one"), "Copies a state of one sequence over that of sequence i.")
      .def(
          "save",
          [](const State& self, const Path& path) {
            const nb::gil_scoped_release released;
            self.save(path.string());
          },
          nb::arg("path"), "Writes one safetensors file, atomically.")
      .def_static(
          "load",
          [](const Path& path) {
            const nb::gil_scoped_release released;
            return State::load(path.string());
          },
          nb::arg("path"),
          "What save() wrote, here or in `coluber generate --state-out`. FileNotFoundError, or ValueError when the "
          "file "
          "is cut or is no state.")
      .def_static("from_layers", &from_layers, nb::arg("layers"), nb::arg("num_tokens") = 0,
                  "A state with copies of arrays: for each layer a pair of conv (b,d,k-1), oldest input first, and ssm "
                  "(b,d,n), f32 or f64.");
}

}  // namespace coluber::python
