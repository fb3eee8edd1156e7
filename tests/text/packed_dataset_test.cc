// Batches: every window once an epoch, a pure function of the step, and borders of documents exactly as documented.
#include "text/packed_dataset.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>

#include "tests/support/refusals.h"
#include "tests/support/tensors.h"
#include "tests/support/token_files.h"
#include "text/token_file.h"

namespace coluber::testing {
namespace {

using Ids = std::vector<std::int32_t>;

// Token i is i, so that a window tells where it came from.
std::shared_ptr<const TokenStore> counting(std::int64_t n) {
  Ids ids(static_cast<std::size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return TokenStore::of(std::move(ids), n);
}

template <class T>
std::vector<std::int64_t> row_of(const Tensor& t, std::int64_t row) {
  const T* begin = t.data<T>() + row * t.size(1);
  return {begin, begin + t.size(1)};
}

std::vector<std::int64_t> ids_of(const PackedBatch& batch, std::int64_t row = 0) {
  return row_of<std::int32_t>(batch.ids, row);
}
std::vector<std::int64_t> targets_of(const PackedBatch& batch, std::int64_t row = 0) {
  return row_of<std::int32_t>(batch.targets, row);
}
std::vector<std::int64_t> resets_of(const PackedBatch& batch, std::int64_t row = 0) {
  return row_of<std::uint8_t>(batch.resets, row);
}
using Row = std::vector<std::int64_t>;

// First tokens of `count` windows from window `first` on, in batches of `b`.
Row starts_of(const PackedDataset& data, std::int64_t first, std::int64_t count, std::int64_t l, std::uint64_t seed,
              std::int64_t b = 1) {
  Row starts;
  for (std::int64_t step = first / b; step < (first + count) / b; ++step) {
    const PackedBatch batch = data.batch(step, b, l, seed);
    for (std::int64_t row = 0; row < b; ++row) {
      const Row ids = ids_of(batch, row), targets = targets_of(batch, row);
      starts.push_back(ids.front());
      for (std::int64_t t = 0; t < l; ++t) {
        EXPECT_EQ(ids[static_cast<std::size_t>(t)], ids.front() + t);
        EXPECT_EQ(targets[static_cast<std::size_t>(t)], ids.front() + t + 1);
      }
    }
    EXPECT_EQ(batch.num_targets, b * l);
  }
  return starts;
}

TEST(PackedDataset, EveryWindowOnceAnEpoch) {
  for (const std::int64_t n : {2, 6, 7, 11, 50, 61, 128, 1000, 4097}) {
    for (const std::int64_t l : {1, 3, 5, 10}) {
      if (n <= l) continue;
      const PackedDataset data{TokenStream(counting(n))};
      const std::int64_t windows = data.windows_per_epoch(l);
      EXPECT_EQ(windows, (n - 1) / l);
      for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
        Row starts = starts_of(data, epoch * windows, windows, l, 5);
        std::sort(starts.begin(), starts.end());
        const std::int64_t phase = windows > 1 ? starts.front() : 0;
        EXPECT_LT(phase, l);
        for (std::int64_t i = 0; i + 1 < windows; ++i) EXPECT_EQ(starts[static_cast<std::size_t>(i)], phase + i * l);
        EXPECT_LE(starts.back(), n - 1 - l);
        if (windows > 1) {
          EXPECT_EQ(starts.back(), std::min(phase + (windows - 1) * l, n - 1 - l));
        }
      }
    }
  }
}

TEST(PackedDataset, EpochsAndSeedsDifferInOrderAndPhase) {
  const PackedDataset data{TokenStream(counting(1000))};
  const std::int64_t windows = data.windows_per_epoch(10);
  std::set<Row> orders;
  std::set<std::int64_t> phases;
  for (std::int64_t epoch = 0; epoch < 20; ++epoch) {
    const Row starts = starts_of(data, epoch * windows, windows, 10, 1);
    EXPECT_TRUE(orders.insert(starts).second);
    phases.insert(*std::min_element(starts.begin(), starts.end()));
  }
  EXPECT_GT(phases.size(), 5u);  // of 10; 20 draws miss one with probability 0.12
  EXPECT_NE(starts_of(data, 0, windows, 10, 1), starts_of(data, 0, windows, 10, 2));
}

// Each of 16 windows comes first about equally often: chi-squared of 4000 epochs, 15 degrees of freedom, beyond which
// chance goes once in a million times.
TEST(PackedDataset, EveryWindowMayComeFirst) {
  const PackedDataset data{TokenStream(counting(16 * 2 + 1))};
  std::map<std::int64_t, int> count;
  for (std::int64_t epoch = 0; epoch < 4000; ++epoch) ++count[starts_of(data, epoch * 16, 1, 2, 3)[0] / 2];
  double chi_squared = 0;
  for (std::int64_t i = 0; i < 16; ++i) chi_squared += (count[i] - 250.0) * (count[i] - 250.0) / 250.0;
  EXPECT_LT(chi_squared, 54.0);
}

TEST(PackedDataset, ABatchDependsOnItsStepAlone) {
  const PackedDataset data{TokenStream(counting(500))}, again{TokenStream(counting(500))};
  const Row one_by_one = starts_of(data, 0, 120, 7, 9);
  EXPECT_EQ(starts_of(data, 0, 120, 7, 9, 6), one_by_one);  // the same windows in batches of 6
  for (const std::int64_t step : {19, 3, 0, 11}) {
    const PackedBatch a = data.batch(step, 6, 7, 9), b = again.batch(step, 6, 7, 9);
    EXPECT_TRUE(same_bits(a.ids, b.ids) && same_bits(a.targets, b.targets) && same_bits(a.resets, b.resets));
    EXPECT_EQ(ids_of(a)[0], one_by_one[static_cast<std::size_t>(step * 6)]);
  }
}

TEST(PackedDataset, StepsFarAwayCostNothing) {
  const PackedDataset data{TokenStream(counting(100))};
  EXPECT_EQ(ids_of(data.batch((1ll << 62) - 1, 1, 4, 0)).size(), 4u);
}

// Documents "ABC", "DE", "F" with begin 1 and end 2 of text: no target reaches from an end to the next begin.
TEST(PackedDataset, BordersWithBeginAndEnd) {
  const auto store = TokenStore::of({1, 10, 11, 12, 2, 1, 13, 14, 2, 1, 15, 2}, 20, {0, 5, 9}, 2);
  const PackedBatch all = PackedDataset{TokenStream(store)}.chunk(0, 100);
  EXPECT_EQ(ids_of(all), (Row{1, 10, 11, 12, 2, 1, 13, 14, 2, 1, 15, 2}));
  EXPECT_EQ(targets_of(all), (Row{10, 11, 12, 2, -1, 13, 14, 2, -1, 15, 2, -1}));
  EXPECT_EQ(resets_of(all), (Row{1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0}));
  EXPECT_EQ(all.num_targets, 9);
}

// One id 0 ends and opens: predicting it counts, and the state starts anew at it. Listed or not, the same.
TEST(PackedDataset, BordersWithOneEndOfText) {
  const Ids ids = {0, 10, 11, 0, 12, 0, 13, 0};
  for (const std::vector<std::int64_t>& listed : {std::vector<std::int64_t>{0, 3, 5, 7}, {}}) {
    const PackedBatch all = PackedDataset{TokenStream(TokenStore::of(ids, 20, listed, 0))}.chunk(0, 8);
    EXPECT_EQ(targets_of(all), (Row{10, 11, 0, 12, 0, 13, 0, -1}));
    EXPECT_EQ(resets_of(all), (Row{1, 0, 0, 1, 0, 1, 0, 1}));
    EXPECT_EQ(all.num_targets, 7);
  }
}

// Documents of nothing but their tokens; and an end-of-text id that is no border, because others are listed.
TEST(PackedDataset, BordersWithoutEndOfText) {
  const auto plain = TokenStore::of({10, 11, 12, 13, 14}, 20, {0, 2, 3});
  const PackedBatch all = PackedDataset{TokenStream(plain)}.chunk(0, 5);
  EXPECT_EQ(targets_of(all), (Row{11, -1, -1, 14, -1}));
  EXPECT_EQ(resets_of(all), (Row{1, 0, 1, 1, 0}));
  const auto inside = TokenStore::of({10, 0, 12, 13}, 20, {0, 2}, 0);
  const PackedBatch other = PackedDataset{TokenStream(inside)}.chunk(0, 4);
  EXPECT_EQ(targets_of(other), (Row{0, -1, 13, -1}));
  EXPECT_EQ(resets_of(other), (Row{1, 0, 1, 0}));
  const PackedBatch none = PackedDataset{TokenStream(counting(4))}.chunk(0, 4);
  EXPECT_EQ(resets_of(none), (Row{0, 0, 0, 0}));
}

// The border between a window's last token and the one behind it.
TEST(PackedDataset, BordersAtTheEndOfAWindow) {
  const auto store = TokenStore::of({10, 11, 12, 13, 14, 15}, 20, {0, 3});
  const PackedDataset data{TokenStream(store)};
  EXPECT_EQ(targets_of(data.chunk(0, 3)), (Row{11, 12, -1}));
  EXPECT_EQ(resets_of(data.chunk(0, 3)), (Row{1, 0, 0}));
  EXPECT_EQ(targets_of(data.chunk(1, 3)), (Row{14, 15, -1}));
  EXPECT_EQ(resets_of(data.chunk(1, 3)), (Row{1, 0, 0}));
}

TEST(PackedDataset, ChunksCoverTheStreamOnce) {
  for (const std::int64_t l : {1, 4, 5, 20, 21, 1000}) {
    const TokenStream stream(counting(40), 10, 31);
    const PackedDataset data(stream);
    Row seen, targets;
    for (std::int64_t i = 0; i < data.num_chunks(l); ++i) {
      const PackedBatch chunk = data.chunk(i, l);
      EXPECT_LE(chunk.ids.size(1), l);
      const Row ids = ids_of(chunk), next = targets_of(chunk);
      seen.insert(seen.end(), ids.begin(), ids.end());
      targets.insert(targets.end(), next.begin(), next.end());
    }
    Row expected(21);
    std::iota(expected.begin(), expected.end(), 10);
    EXPECT_EQ(seen, expected) << l;
    expected.erase(expected.begin());
    expected.push_back(-1);
    EXPECT_EQ(targets, expected) << l;
  }
}

// Neither ids nor targets of one part are tokens of the other.
TEST(TokenStreamSplit, DoesNotLeak) {
  std::vector<std::int64_t> starts;
  for (std::int64_t i = 0; i < 100; i += 7) starts.push_back(i);
  Ids ids(100);
  std::iota(ids.begin(), ids.end(), 0);
  const auto [train, heldout] = TokenStream(TokenStore::of(ids, 100, starts)).split(0.2);
  EXPECT_EQ(train.size(), 84);  // the border at or after 80
  EXPECT_EQ(heldout.size(), 16);
  const PackedDataset data(train);
  for (std::int64_t step = 0; step < 100; ++step) {
    for (const std::int64_t id : ids_of(data.batch(step, 1, 10, 0))) EXPECT_LT(id, 84);
    for (const std::int64_t id : targets_of(data.batch(step, 1, 10, 0))) EXPECT_LT(id, 84);
  }
  EXPECT_EQ(ids_of(PackedDataset(heldout).chunk(0, 4)), (Row{84, 85, 86, 87}));
  EXPECT_EQ(resets_of(PackedDataset(heldout).chunk(0, 4)), (Row{1, 0, 0, 0}));
}

TEST(TokenStreamSplit, AtEndOfTextOrAnywhere) {
  Ids ids(10'000, 5);
  ids[9'000] = ids[9'500] = 0;
  EXPECT_EQ(TokenStream(TokenStore::of(ids, 10, {}, 0)).split(0.5).first.size(), 9'000);
  EXPECT_EQ(TokenStream(TokenStore::of(ids, 10, {}, 0)).split(0.1).first.size(), 9'000);
  EXPECT_EQ(TokenStream(TokenStore::of(ids, 10, {}, 0)).split(0.01).first.size(), 9'900);  // none behind
  EXPECT_EQ(TokenStream(TokenStore::of(ids, 10)).split(0.5).first.size(), 5'000);
  const auto [first, last] = TokenStream(TokenStore::of(ids, 10), 100, 200).split(0.25);
  EXPECT_EQ(first.size(), 75);
  EXPECT_EQ(last.size(), 25);
}

TEST(TokenStreamFingerprint, TellsTokensAndBordersApart) {
  const auto of = [](Ids ids, std::vector<std::int64_t> starts) {
    return TokenStream(TokenStore::of(std::move(ids), 9, std::move(starts))).fingerprint();
  };
  const std::uint64_t fingerprint = of({1, 2, 3, 4, 5}, {0, 2});
  EXPECT_EQ(of({1, 2, 3, 4, 5}, {0, 2}), fingerprint);
  EXPECT_NE(of({1, 2, 3, 4, 6}, {0, 2}), fingerprint);
  EXPECT_NE(of({2, 2, 3, 4, 5}, {0, 2}), fingerprint);
  EXPECT_NE(of({1, 2, 3, 4, 5}, {0, 3}), fingerprint);
  EXPECT_NE(of({1, 2, 3, 4, 5, 0}, {0, 2}), fingerprint);
  const auto all = counting(100'000);  // several blocks
  EXPECT_EQ(TokenStream(all, 0, 70'000).fingerprint(), TokenStream(counting(70'000)).fingerprint());
  EXPECT_NE(TokenStream(all, 0, 70'000).fingerprint(), TokenStream(all, 1, 70'001).fingerprint());
}

// 256 GB of zeros in a file with a hole: read whole, they would take minutes.
TEST(TokenStreamFingerprint, OfAHugeFileLooksAtParts) {
  const TemporaryFolder folder;
  const std::string path = folder / "huge.bin";
  TokenFileHeader header;
  header.info.num_tokens = std::int64_t{1} << 36;
  header.info.vocab_size = 100'000;
  write_bytes(path, {reinterpret_cast<const char*>(&header), sizeof header});
  std::filesystem::resize_file(path, static_cast<std::uintmax_t>(token_file_extents(header).size_bytes));
  const auto fingerprint = [&] { return TokenStream(TokenStore::open(path)).fingerprint(); };
  const std::uint64_t before = fingerprint();
  EXPECT_EQ(fingerprint(), before);
  for (const std::int64_t token : {std::int64_t{0}, header.info.num_tokens - 1}) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    const auto write = [&](std::int32_t id) {
      file.seekp(kTokenFileHeaderBytes + 4 * token);
      file.write(reinterpret_cast<const char*>(&id), sizeof id).flush();
    };
    write(7);
    EXPECT_NE(fingerprint(), before) << token;
    write(0);
    EXPECT_EQ(fingerprint(), before) << token;
  }
}

TEST(PackedDataset, ReadsFiles) {
  const TemporaryFolder folder;
  write_bytes(folder / "t.bin", token_file({}));
  const PackedBatch all = PackedDataset{TokenStream(TokenStore::open(folder / "t.bin"))}.chunk(0, 6);
  EXPECT_EQ(ids_of(all), (Row{0, 5, 299, 0, 7, 8}));
  EXPECT_EQ(targets_of(all), (Row{5, 299, 0, 7, 8, -1}));
  EXPECT_EQ(resets_of(all), (Row{1, 0, 0, 1, 0, 0}));
}

constexpr auto kInvalid = ErrorCode::kInvalidArgument;

std::vector<RefusalCase> refusals() {
  const auto with = [](auto&& act) { return [act] { act(PackedDataset{TokenStream(counting(9))}); }; };
  return {
      {"Short", kInvalid, {"512", "got 9"}, with([](const PackedDataset& d) { d.batch(0, 1, 512, 0); })},
      {"ShortByOne", kInvalid, {"9", "got 9"}, with([](const PackedDataset& d) { d.windows_per_epoch(9); })},
      {"Empty", kInvalid, {"got 0"}, [] { PackedDataset{TokenStream(counting(9), 4, 4)}.windows_per_epoch(1); }},
      {"LengthZero", kInvalid, {"seq_len", "got 0"}, with([](const PackedDataset& d) { d.batch(0, 1, 0, 0); })},
      {"LengthMax", kInvalid, {"got 9"}, with([](const PackedDataset& d) {
         d.batch(0, 1, std::numeric_limits<std::int64_t>::max(), 0);
       })},
      {"BatchZero", kInvalid, {"batch size", "got 0"}, with([](const PackedDataset& d) { d.batch(0, 0, 4, 0); })},
      {"StepNegative", kInvalid, {"step", "got -1"}, with([](const PackedDataset& d) { d.batch(-1, 1, 4, 0); })},
      {"StepOverflows", kInvalid, {"2^63"}, with([](const PackedDataset& d) { d.batch(1ll << 62, 4, 4, 0); })},
      {"ChunkBehind", kInvalid, {"0 to 2", "got 3"}, with([](const PackedDataset& d) { d.chunk(3, 4); })},
      {"ChunkNegative", kInvalid, {"got -1"}, with([](const PackedDataset& d) { d.chunk(-1, 4); })},
      {"ChunkLength", kInvalid, {"seq_len", "got -4"}, with([](const PackedDataset& d) { d.chunk(0, -4); })},
      {"RangeBehind", kInvalid, {"within 0 to 9", "3 to 10"}, [] { TokenStream(counting(9), 3, 10); }},
      {"RangeBackwards", kInvalid, {"5 to 4"}, [] { TokenStream(counting(9), 5, 4); }},
      {"SplitEmpty", kInvalid, {"9 and 0 tokens"}, [] { (void)TokenStream(counting(9)).split(0.01); }},
      {"SplitShare", kInvalid, {"below 1", "1.5"}, [] { (void)TokenStream(counting(9)).split(1.5); }},
      {"ReadBehind",
       kInvalid,
       {"2 from 1"},
       [] {
         Ids ids(2), targets(2);
         std::vector<std::uint8_t> resets(2);
         TokenStream(counting(9), 0, 2).read(1, ids, targets, resets);
       }},
  };
}

INSTANTIATE_TEST_SUITE_P(PackedDataset, Refusals, ::testing::ValuesIn(refusals()), refusal_name);

}  // namespace
}  // namespace coluber::testing
