// One table per checkpoint family: how our parameter names read in the files of others.
//
// Ours are those of the state-spaces layout. Hugging Face spells the embedding `backbone.embeddings`; everything else
// agrees. Convolution weights have a middle axis of 1 in files, (d,1,k), and none here, (d,k).
#pragma once

#include <string>

#include "coluber/config.h"
#include "coluber/tensor.h"

namespace coluber {

// The name in a file of that layout.
std::string file_tensor_name(CheckpointLayout layout, const std::string& parameter);
// Our name for a tensor found in a file of any layout: strips a leading "model.", joins embedding and embeddings.
std::string parameter_name(std::string file_name);

// (d,k) -> (d,1,k) for convolution weights; others pass through. And back.
Tensor to_file_shape(const std::string& parameter, const Tensor& value);
Tensor from_file_shape(const std::string& parameter, const Tensor& value);

}  // namespace coluber
