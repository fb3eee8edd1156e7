// From flags to a training: its folder, its checkpoint, its model and the options of the library. What `coluber train`
// and the Python package have in common.
#pragma once

#include <memory>
#include <string>

#include "apps/train_data.h"

namespace coluber::apps {

// The checkpoint to go on from; empty when this is a new training. Takes the flags that it was begun with.
std::string take_checkpoint(TrainFlags& options, const FlagBindings& bindings);

// Before the vocabulary is learned and the text read: whatever would be refused at the end of that is refused now.
void check_train_flags(const TrainFlags& options);

// Makes and locks --out; refuses one that holds a model or, when not resuming, a training.
std::shared_ptr<TrainingLock> prepare_out(const TrainFlags& options, bool resuming);

// Only when the new training can begin: a misspelt --data must not cost the old one.
void remove_earlier_training(const std::string& out, const TrainData& data);

// Refuses shapes that do not fit into memory before any of it is allocated.
Model create_model(const TrainFlags& options, const TrainData& data);

TrainOptions learning_options(const TrainFlags& options);  // all that does not depend on the data
TrainOptions train_options(const TrainFlags& options, const FlagBindings& bindings, const TrainData& data);

}  // namespace coluber::apps
