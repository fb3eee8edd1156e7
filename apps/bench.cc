// `coluber bench`: how fast this machine runs the library, as shares of what it could do at most.
#include "apps/bench.h"

#include <cstdio>

#include "apps/commands.h"
#include "apps/machine.h"
#include "apps/terminal.h"
#include "core/check.h"
#include "core/cuda.h"
#include "kernels/machine.h"

namespace coluber::apps {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

std::string number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string milliseconds(double seconds) {
  return number(seconds * 1e3, seconds < 0.01 ? 3 : seconds < 1 ? 1 : 0) + " ms";
}
std::string percent(double share) {
  return number(share * 100, 1) + "%";
}

// null rather than 0 where a figure does not apply
Json figure(double value) {
  return value > 0 ? Json(value) : Json(nullptr);
}

double mib(std::int64_t bytes) {
  return static_cast<double>(bytes) / kMiB;
}

// What all rows of a run share.
struct Bench {
  const BenchOptions& options;
  Context ctx;
  Device device;
  DType dtype;

  explicit Bench(const BenchOptions& given)
      : options(given), ctx(given.context()), device(given.chosen_device()), dtype(parse_dtype(given.dtype)) {}

  MachineRates measure_rates() {
    return device.is_cpu() ? measure_machine(ctx.threads()) : cuda::measure_machine(cuda::current_stream(device.index));
  }
};

Json machine_json(const Bench& bench, const MachineRates& rates) {
  Json machine = {{"cpu", cpu_model()}, {"isa", cpu_isa()}, {"threads", bench.ctx.num_threads()}};
  if (!bench.device.is_cpu()) machine["gpu"] = gpu_json(bench.device.index);
  machine["read_bytes_per_s"] = figure(rates.read_bytes_per_s);
  machine["copy_bytes_per_s"] = figure(rates.copy_bytes_per_s);
  machine["f32_flop_per_s"] = rates.f32_flop_per_s;
  machine["bf16_flop_per_s"] = figure(rates.bf16_flop_per_s);
  machine["exponentials_per_s"] = figure(rates.exponentials_per_s);
  return machine;
}

std::string machine_line(const Bench& bench, const MachineRates& rates) {
  std::string line;
  if (bench.device.is_cpu()) {
    line = join(cpu_model(), ", ", cpu_isa(), ", ", counted(bench.ctx.num_threads(), "thread"), "; at most: read ",
                number(rates.read_bytes_per_s / 1e9, 1), " GB/s");
  } else {
    line = join(cuda_device_info(bench.device.index).name, "; at most: copy ", number(rates.copy_bytes_per_s / 1e9, 0),
                " GB/s");
  }
  line += join(", f32 ", number(rates.f32_flop_per_s / 1e9, 0), " GFLOP/s");
  if (rates.bf16_flop_per_s > 0) line += join(", bf16 ", number(rates.bf16_flop_per_s / 1e9, 0), " GFLOP/s");
  if (rates.exponentials_per_s > 0)
    line += join(", ", number(rates.exponentials_per_s / 1e12, 2), "e12 exponentials/s");
  return line;
}

void print_row(const std::string& what, const std::string& value) {
  print_line("  " + what + std::string(what.size() < 18 ? 18 - what.size() : 1, ' ') + value);
}

// "12.3 ms, set by bytes: 81.0% of the time"
std::string floor_text(const Floor& floor, double seconds) {
  return join(milliseconds(floor.seconds), ", set by ", floor.limit, ": ", percent(floor.seconds / seconds),
              " of the time");
}

struct Shares {
  double bandwidth, matrix, tokens_per_s;
  Floor floor;

  Shares(const Measured& measured, DType dtype)
      : bandwidth(measured.bytes / measured.time.best / measured.rates.bytes_per_s()),
        matrix(measured.flop / measured.time.best / measured.rates.matrix_flop_per_s(dtype)),
        tokens_per_s(static_cast<double>(measured.tokens) / measured.time.best),
        floor(floor_of(measured.work, measured.rates, dtype)) {}
};

void print_pass_json(const Bench& bench, const Measured& measured) {
  const Shares shares(measured, bench.dtype);
  print_json({{"bench", bench.options.what},
              {"device", device_name(bench.device)},
              {"preset", bench.options.preset},
              {"dtype", bench.options.dtype},
              {"batch", measured.batch},
              {"seqlen", measured.seqlen},
              {"chunk", bench.options.chunk},
              {"recompute", bench.options.recompute},
              {"tokens_per_pass", measured.tokens},
              {"seconds_best", measured.time.best},
              {"seconds_median", measured.time.median},
              {"samples", measured.time.samples},
              {"floor_seconds", shares.floor.seconds},
              {"floor_limit", shares.floor.limit},
              {"tokens_per_s", shares.tokens_per_s},
              {"bandwidth_share", figure(shares.bandwidth)},
              {"matrix_share", figure(shares.matrix)},
              {"peak_memory_mib", mib(measured.peak_bytes)},
              {"peak_rss_mib", figure(mib(measured.peak_rss_bytes))},
              {"machine", machine_json(bench, measured.rates)}});
}

void print_pass(const Bench& bench, const Measured& measured) {
  const BenchOptions& options = bench.options;
  const Shares shares(measured, bench.dtype);
  print_line(paint(Colour::kBold,
                   join(options.what, "  ", options.preset, "  ", options.dtype, "  ", device_name(bench.device))) +
             join("  ", counted(measured.tokens, "token"), " a pass"));
  print_row("time", join("best ", milliseconds(measured.time.best), ", median ", milliseconds(measured.time.median),
                         ", ", measured.time.samples, " samples"));
  print_row("floor", floor_text(shares.floor, measured.time.best));
  print_row("tokens_per_s", number(shares.tokens_per_s, shares.tokens_per_s < 100 ? 1 : 0));
  if (shares.bandwidth > 0) {
    print_row("bandwidth_share",
              join(percent(shares.bandwidth), " (", number(measured.bytes / kMiB, 1), " MiB moved a pass)"));
  }
  if (shares.matrix > 0) {
    print_row("matrix_share", join(percent(shares.matrix), " (", number(measured.flop / 1e9, 1), " GFLOP a pass)"));
  }
  print_row("peak_memory_mib", number(mib(measured.peak_bytes), 0));
  if (measured.peak_rss_bytes > 0) print_row("peak_rss_mib", number(mib(measured.peak_rss_bytes), 0));
  print_line(machine_line(bench, measured.rates));
}

int run_model(const BenchOptions& options) {
  Bench bench(options);
  const Report report = [&](const Measured& measured) {
    options.json ? print_pass_json(bench, measured) : print_pass(bench, measured);
  };
  // Those of the CPU are taken beside each pass.
  const MachineRates rates = bench.device.is_cpu() ? MachineRates{} : bench.measure_rates();
  if (options.what == "decode") bench_decode(bench.ctx, options, rates, report);
  if (options.what == "prefill") bench_prefill(bench.ctx, options, rates, report);
  if (options.what == "train") bench_train(bench.ctx, options, rates, report);
  return kExitOk;
}

void print_op_json(const Bench& bench, const MachineRates& rates, const OpMeasured& op) {
  const Floor floor = floor_of(op.work, rates, bench.dtype);
  print_json(
      {{"bench", "ops"},
       {"device", device_name(bench.device)},
       {"preset", bench.options.preset},
       {"dtype", bench.options.dtype},
       {"op", op.op},
       {"shape", op.shape},
       {"seconds_best", op.time.best},
       {"seconds_median", op.time.median},
       {"floor_seconds", floor.seconds},
       {"floor_limit", floor.limit},
       {"ns_per_token", figure(op.tokens > 0 ? op.time.best / op.tokens * 1e9 : 0)},
       {"bandwidth_share", figure(op.work.bytes / op.time.best / rates.bytes_per_s())},
       {"matrix_share", figure(op.work.products / op.time.best / rates.matrix_flop_per_s(bench.dtype))},
       {"exponential_share",
        figure(rates.exponentials_per_s > 0 ? op.work.exponentials / op.time.best / rates.exponentials_per_s : 0)},
       {"times_reference", figure(op.reference_seconds / op.time.best)}});
}

void print_op_heading() {
  char row[256];
  std::snprintf(row, sizeof row, "%-36s %-26s %11s %11s %-12s %7s %10s %10s", "op", "shape", "best", "floor", "set by",
                "share", "ns/token", "reference");
  print_line(paint(Colour::kBold, row));
}

void print_op(const Bench& bench, const MachineRates& rates, const OpMeasured& op) {
  const Floor floor = floor_of(op.work, rates, bench.dtype);
  char row[256];
  std::snprintf(row, sizeof row, "%-36s %-26s %11s %11s %-12s %7s %10s %10s", op.op.c_str(), op.shape.c_str(),
                milliseconds(op.time.best).c_str(), milliseconds(floor.seconds).c_str(),
                std::string(floor.limit).c_str(), percent(floor.seconds / op.time.best).c_str(),
                op.tokens > 0 ? number(op.time.best / op.tokens * 1e9, 1).c_str() : "",
                op.reference_seconds > 0 ? (number(op.reference_seconds / op.time.best, 1) + " x").c_str() : "");
  print_line(row);
}

int run_ops(const BenchOptions& options) {
  Bench bench(options);
  const MachineRates rates = bench.measure_rates();
  if (!options.json) print_op_heading();
  bench_ops(bench.ctx, options,
            [&](const OpMeasured& op) { options.json ? print_op_json(bench, rates, op) : print_op(bench, rates, op); });
  if (options.json) {
    print_json({{"bench", "machine"},
                {"machine", machine_json(bench, rates)},
                {"peak_memory_mib", mib(memory_stats(bench.device).peak_bytes)},
                {"peak_rss_mib", mib(peak_rss_bytes())}});
  } else {
    print_line(machine_line(bench, rates));
  }
  return kExitOk;
}

int run(const BenchOptions& options) {
  if (options.seconds <= 0) {
    refuse_value(ErrorCode::kInvalidArgument, "bench", "--seconds", "a number above 0", join(options.seconds));
  }
  return options.what == "ops" ? run_ops(options) : run_model(options);
}

}  // namespace

void register_bench(CLI::App& root, Exit& exit) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App& command = add_command(
      root, "bench", "Measure speed as shares of what this machine can do, with random weights",
      {{"coluber bench decode --preset mamba-130m --dtype bf16 --batch 1,8", "tokens after each other"},
       {"coluber bench prefill --preset mamba-130m --seqlen 2048", "reading a prompt"},
       {"coluber bench train --preset tiny --json", "a training step, for scripts"},
       {"coluber bench train --preset mamba-130m --dtype bf16 --device cuda", "the same on an NVIDIA GPU"},
       {"coluber bench ops --preset mamba-130m", "every op, and without --seqlen the scan over growing lengths"}});
  add_common_options(command, *options);
  add_device_option(command, *options);
  command.add_option("what", options->what, "ops, decode, prefill or train")
      ->required()
      ->check(CLI::IsMember({"ops", "decode", "prefill", "train"}));
  command.add_option("--preset", options->preset, "Shape: tiny, mamba-130m, 370m, 790m, 1.4b or 2.8b")
      ->capture_default_str();
  add_dtype_option(command, "--dtype", options->dtype, "Of weights and matrix products, on a GPU of activations too",
                   {"f32", "bf16"});
  command
      .add_option("--batch", options->batch,
                  "Sequences, or several: 1,8,64 (default: 8 in training of tiny and in "
                  "ops on a GPU, else 1)")
      ->delimiter(',')
      ->check(whole_number(1, 1 << 20));
  command
      .add_option("--seqlen", options->seqlen,
                  "Tokens of a sequence, or several: 512,2048 (default: 512; ops beyond tiny 2048)")
      ->delimiter(',')
      ->check(whole_number(1, 1 << 30));
  command
      .add_option("--recompute", options->recompute, "In training, made again in backward: none, light, scan or layer")
      ->capture_default_str()
      ->check(CLI::IsMember({"none", "light", "scan", "layer"}));
  command.add_option("--cuda-graph", options->cuda_graph, "In training on a GPU, steps as one graph: auto or off")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "off"}));
  add_integer_option(command, "--chunk", options->chunk, "Tokens that prefill reads at once; without it: all", 1);
  command.add_option("--seconds", options->seconds, "Measure for so long, each row")->capture_default_str();
  on_run(command, exit, options, run);
}

}  // namespace coluber::apps
