// `coluber bench`: how fast this machine runs the library, as shares of what it could do at most.
#include "apps/bench.h"

#include <cstdio>

#include "apps/commands.h"
#include "apps/machine.h"
#include "apps/terminal.h"
#include "core/check.h"
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

struct Yardsticks {
  MachineRates rates;

  double matrix_rate(DType dtype) const {
    return dtype == DType::kBF16 && rates.bf16_flop_per_s > 0 ? rates.bf16_flop_per_s : rates.f32_flop_per_s;
  }
};

Json machine_json(const Context& ctx, const MachineRates& rates) {
  return {{"cpu", cpu_model()},
          {"isa", cpu_isa()},
          {"threads", ctx.num_threads()},
          {"read_bytes_per_s", rates.read_bytes_per_s},
          {"f32_flop_per_s", rates.f32_flop_per_s},
          {"bf16_flop_per_s", figure(rates.bf16_flop_per_s)}};
}

std::string machine_line(const Context& ctx, const MachineRates& rates) {
  std::string line =
      join(cpu_model(), ", ", cpu_isa(), ", ", counted(ctx.num_threads(), "thread"), "; at most: read ",
           number(rates.read_bytes_per_s / 1e9, 1), " GB/s, f32 ", number(rates.f32_flop_per_s / 1e9, 0), " GFLOP/s");
  if (rates.bf16_flop_per_s > 0) line += join(", bf16 ", number(rates.bf16_flop_per_s / 1e9, 0), " GFLOP/s");
  return line;
}

void print_row(const std::string& what, const std::string& value) {
  print_line("  " + what + std::string(what.size() < 18 ? 18 - what.size() : 1, ' ') + value);
}

int run_model(const BenchOptions& options) {
  Context ctx(options.context());
  const Measured measured = options.what == "decode"    ? bench_decode(ctx, options)
                            : options.what == "prefill" ? bench_prefill(ctx, options)
                                                        : bench_train(ctx, options);
  const double peak_rss_mib = static_cast<double>(measured.peak_rss_bytes) / kMiB;
  const Yardsticks yardsticks{measured.rates};
  const DType dtype = parse_dtype(options.dtype);
  const double bandwidth_share = measured.bytes / measured.time.best / yardsticks.rates.read_bytes_per_s;
  const double matrix_share = measured.flop / measured.time.best / yardsticks.matrix_rate(dtype);
  const double tokens_per_s = static_cast<double>(measured.tokens) / measured.time.best;
  if (options.json) {
    print_json({{"bench", options.what},
                {"preset", options.preset},
                {"dtype", options.dtype},
                {"tokens_per_pass", measured.tokens},
                {"seconds_best", measured.time.best},
                {"seconds_median", measured.time.median},
                {"samples", measured.time.samples},
                {"tokens_per_s", tokens_per_s},
                {"bandwidth_share", figure(bandwidth_share)},
                {"matrix_share", figure(matrix_share)},
                {"peak_rss_mib", peak_rss_mib},
                {"machine", machine_json(ctx, yardsticks.rates)}});
    return kExitOk;
  }
  print_line(paint(Colour::kBold, join(options.what, "  ", options.preset, "  ", options.dtype)) +
             join("  ", counted(measured.tokens, "token"), " a pass"));
  print_row("time", join("best ", milliseconds(measured.time.best), ", median ", milliseconds(measured.time.median),
                         ", ", measured.time.samples, " samples"));
  print_row("tokens_per_s", number(tokens_per_s, tokens_per_s < 100 ? 1 : 0));
  if (bandwidth_share > 0) {
    print_row("bandwidth_share",
              join(percent(bandwidth_share), " (", number(measured.bytes / kMiB, 1), " MiB read a pass)"));
  }
  if (matrix_share > 0) {
    print_row("matrix_share", join(percent(matrix_share), " (", number(measured.flop / 1e9, 1), " GFLOP a pass)"));
  }
  print_row("peak_rss_mib", number(peak_rss_mib, 0));
  print_line(machine_line(ctx, yardsticks.rates));
  return kExitOk;
}

Json op_json(const OpMeasured& op, const BenchOptions& options, const Yardsticks& yardsticks) {
  return {{"bench", "ops"},
          {"preset", options.preset},
          {"dtype", options.dtype},
          {"op", op.op},
          {"shape", op.shape},
          {"seconds_best", op.time.best},
          {"seconds_median", op.time.median},
          {"ns_per_token", figure(op.tokens > 0 ? op.time.best / op.tokens * 1e9 : 0)},
          {"bandwidth_share", figure(op.bytes / op.time.best / yardsticks.rates.read_bytes_per_s)},
          {"matrix_share", figure(op.flop / op.time.best / yardsticks.matrix_rate(parse_dtype(options.dtype)))},
          {"times_reference", figure(op.reference_seconds / op.time.best)}};
}

int run_ops(const BenchOptions& options) {
  Context ctx(options.context());
  const Yardsticks yardsticks{measure_machine(ctx.threads())};
  const std::vector<OpMeasured> results = bench_ops(ctx, options);
  if (options.json) {
    for (const OpMeasured& op : results) print_json(op_json(op, options, yardsticks));
    print_json({{"bench", "machine"},
                {"machine", machine_json(ctx, yardsticks.rates)},
                {"peak_rss_mib", static_cast<double>(peak_rss_bytes()) / kMiB}});
    return kExitOk;
  }
  char row[256];
  std::snprintf(row, sizeof row, "%-36s %-26s %11s %10s %10s %8s %10s", "op", "shape", "best", "ns/token", "bandwidth",
                "matrix", "reference");
  print_line(paint(Colour::kBold, row));
  for (const OpMeasured& op : results) {
    const double bandwidth = op.bytes / op.time.best / yardsticks.rates.read_bytes_per_s;
    const double matrix = op.flop / op.time.best / yardsticks.matrix_rate(parse_dtype(options.dtype));
    std::snprintf(row, sizeof row, "%-36s %-26s %11s %10s %10s %8s %10s", op.op.c_str(), op.shape.c_str(),
                  milliseconds(op.time.best).c_str(),
                  op.tokens > 0 ? number(op.time.best / op.tokens * 1e9, 1).c_str() : "",
                  bandwidth > 0 ? percent(bandwidth).c_str() : "", matrix > 0 ? percent(matrix).c_str() : "",
                  op.reference_seconds > 0 ? (number(op.reference_seconds / op.time.best, 1) + " x").c_str() : "");
    print_line(row);
  }
  print_line(machine_line(ctx, yardsticks.rates));
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
      {{"coluber bench decode --preset mamba-130m --dtype bf16", "tokens after each other"},
       {"coluber bench prefill --preset mamba-130m --seqlen 2048", "reading a prompt"},
       {"coluber bench train --preset tiny --json", "a training step, for scripts"},
       {"coluber bench ops --preset mamba-130m", "every op, and without --seqlen the scan over growing lengths"}});
  add_common_options(command, *options);
  command.add_option("what", options->what, "ops, decode, prefill or train")
      ->required()
      ->check(CLI::IsMember({"ops", "decode", "prefill", "train"}));
  command.add_option("--preset", options->preset, "Shape: tiny, mamba-130m, 370m, 790m, 1.4b or 2.8b")
      ->capture_default_str();
  add_dtype_option(command, "--dtype", options->dtype, "Of weights, and of matrix products", {"f32", "bf16"});
  command.add_option("--batch", options->batch, "Sequences (default: 8 in training of tiny, else 1)")
      ->check(whole_number(1, 1 << 20));
  command.add_option("--seqlen", options->seqlen, "Tokens of a sequence (default: 512; ops beyond tiny 2048)")
      ->check(whole_number(1, 1 << 30));
  command.add_option("--seconds", options->seconds, "Measure for so long")->capture_default_str();
  on_run(command, exit, options, run);
}

}  // namespace coluber::apps
