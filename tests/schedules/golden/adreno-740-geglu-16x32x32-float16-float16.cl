// adreno-740: geglu 16x32x32 float16 float16, version 3 of the family
__kernel void main_kernel(__global half* restrict geglu_gate_ptr, __read_only image1d_buffer_t p0_ptr /* CL_HALF_FLOAT */, __read_only image1d_buffer_t p1_ptr /* CL_HALF_FLOAT */, __global half* restrict p2_ptr) {
  int _ptr[1];
  int _ptr_1[1];
  float4 _ptr_2[4];
  float _ptr_3[4];
  __local float _ptr_4[256];
  float _ptr_5[16];
  int _ptr_6[1];
  float4 _ptr_7[1];
  int _ptr_8[1];
  int _ptr_9[1];
  int _ptr_10[1];
  _ptr[0] = ((((((convert_int(get_local_id(0))) & 3) * 8) + ((convert_int(get_local_id(0))) >> 2)) << 8) + ((convert_int(get_local_id(0))) << 20));
  int v = 0;
  _ptr_1[0] = (min((int)(convert_int(get_local_id(0))), (int)3) * 32);
  _ptr_2[0] = ((float4)(0.000000e+00f));
  _ptr_2[1] = ((float4)(0.000000e+00f));
  _ptr_2[2] = ((float4)(0.000000e+00f));
  _ptr_2[3] = ((float4)(0.000000e+00f));
  int v_1 = 0;
  vstore4(read_imagef(p1_ptr, (((convert_int(get_group_id(1))) * 32) + ((_ptr[0] >> 20) & 31))), 0, _ptr_3 + 0);
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(vload4(0, _ptr_3 + 0), 0, _ptr_4 + (((_ptr[0] >> 8) & 4095) * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int v_2 = 0; v_2 < 8; ++v_2) {
    vstore4(read_imagef(p0_ptr, _ptr_1[0]), 0, _ptr_5 + 0);
    vstore4(read_imagef(p0_ptr, (_ptr_1[0] + 8)), 0, _ptr_5 + 4);
    vstore4(read_imagef(p0_ptr, (_ptr_1[0] + 16)), 0, _ptr_5 + 8);
    vstore4(read_imagef(p0_ptr, (_ptr_1[0] + 24)), 0, _ptr_5 + 12);
    _ptr_6[0] = (((_ptr[0] & 255) * 32) + v_2);
    _ptr_7[0] = vload4(0, _ptr_4 + (_ptr_6[0] * 4));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[0])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[4])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[8])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[12])) * _ptr_7[0]));
    _ptr_7[0] = vload4(0, _ptr_4 + ((_ptr_6[0] * 4) + 32));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[1])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[5])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[9])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[13])) * _ptr_7[0]));
    _ptr_7[0] = vload4(0, _ptr_4 + ((_ptr_6[0] * 4) + 64));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[2])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[6])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[10])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[14])) * _ptr_7[0]));
    _ptr_7[0] = vload4(0, _ptr_4 + ((_ptr_6[0] * 4) + 96));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[3])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[7])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[11])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[15])) * _ptr_7[0]));
    _ptr_1[0] = (_ptr_1[0] + 1);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_4[(((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)] = (convert_float((((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[0] = (convert_int(_ptr_4[(((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)]));
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[0], 0, _ptr_4 + ((_ptr_8[0] & 31) * 8));
  vstore4(_ptr_2[1], 0, _ptr_4 + (((_ptr_8[0] & 31) * 8) + 4));
  _ptr_9[0] = ((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1);
  int cse_v1 = ((convert_int(get_group_id(1))) * 4);
  int cse_v2 = ((convert_int(get_group_id(1))) * 2);
  barrier(CLK_LOCAL_MEM_FENCE);
  #pragma unroll 1
  while (1) {
    if (!((_ptr_9[0] < 4))) { break; }
    geglu_gate_ptr[(((((min((int)(_ptr_8[0] & 31), (int)3) * 64) + (((_ptr_9[0] & 7) >> 1) * 16)) + (((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 2)) + ((convert_int(get_group_id(1))) * 2)) + ((_ptr_9[0] & 7) & 1))] = (convert_half(((_ptr_4[((((_ptr_8[0] & 31) * 8) + (((_ptr_9[0] & 7) >> 1) * 4)) + ((_ptr_9[0] & 7) & 1))] + (convert_float(p2_ptr[(((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_9[0] & 7) & 1))]))) * (max((float)(_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_9[0] & 7) >> 1) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)]))), (float)0.000000e+00f) - (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_9[0] & 7) >> 1) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)])))) * (((((((((((1.061405e+00f * (1.000000e+00f / (1.000000e+00f + (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_9[0] & 7) >> 1) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)])))) * 2.316419e-01f)))) + -1.453152e+00f) * (1.000000e+00f / (1.000000e+00f + (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_9[0] & 7) >> 1) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)])))) * 2.316419e-01f)))) + 1.421414e+00f) * (1.000000e+00f / (1.000000e+00f + (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_9[0] & 7) >> 1) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)])))) * 2.316419e-01f)))) + -2.844967e-01f) * (1.000000e+00f / (1.000000e+00f + (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_9[0] & 7) >> 1) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)])))) * 2.316419e-01f)))) + 2.548296e-01f) * (1.000000e+00f / (1.000000e+00f + (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_9[0] & 7) >> 1) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)])))) * 2.316419e-01f)))) * exp((((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_9[0] & 7) >> 1) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)]))) * (_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_9[0] & 7) >> 1) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_9[0] & 7) & 1)) + 2)])))) * -5.000000e-01f))) * 5.000000e-01f))))));
    _ptr_9[0] = (_ptr_9[0] + 1);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[2], 0, _ptr_4 + ((_ptr_8[0] & 31) * 8));
  vstore4(_ptr_2[3], 0, _ptr_4 + (((_ptr_8[0] & 31) * 8) + 4));
  _ptr_10[0] = ((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1);
  barrier(CLK_LOCAL_MEM_FENCE);
  #pragma unroll 1
  while (1) {
    if (!((_ptr_10[0] < 4))) { break; }
    geglu_gate_ptr[((((((min((int)(_ptr_8[0] & 31), (int)3) * 64) + (((_ptr_10[0] & 7) >> 1) * 16)) + (((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 2)) + ((convert_int(get_group_id(1))) * 2)) + ((_ptr_10[0] & 7) & 1)) + 32)] = (convert_half(((_ptr_4[((((_ptr_8[0] & 31) * 8) + (((_ptr_10[0] & 7) >> 1) * 4)) + ((_ptr_10[0] & 7) & 1))] + (convert_float(p2_ptr[(((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_10[0] & 7) & 1))]))) * (max((float)(_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_10[0] & 7) >> 1) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)]))), (float)0.000000e+00f) - (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_10[0] & 7) >> 1) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)])))) * (((((((((((1.061405e+00f * (1.000000e+00f / (1.000000e+00f + (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_10[0] & 7) >> 1) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)])))) * 2.316419e-01f)))) + -1.453152e+00f) * (1.000000e+00f / (1.000000e+00f + (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_10[0] & 7) >> 1) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)])))) * 2.316419e-01f)))) + 1.421414e+00f) * (1.000000e+00f / (1.000000e+00f + (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_10[0] & 7) >> 1) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)])))) * 2.316419e-01f)))) + -2.844967e-01f) * (1.000000e+00f / (1.000000e+00f + (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_10[0] & 7) >> 1) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)])))) * 2.316419e-01f)))) + 2.548296e-01f) * (1.000000e+00f / (1.000000e+00f + (fabs((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_10[0] & 7) >> 1) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)])))) * 2.316419e-01f)))) * exp((((_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_10[0] & 7) >> 1) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)]))) * (_ptr_4[(((((_ptr_8[0] & 31) * 8) + (((_ptr_10[0] & 7) >> 1) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)] + (convert_float(p2_ptr[((((((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 31)) & 1) * 4) + ((convert_int(get_group_id(1))) * 4)) + ((_ptr_10[0] & 7) & 1)) + 2)])))) * -5.000000e-01f))) * 5.000000e-01f))))));
    _ptr_10[0] = (_ptr_10[0] + 1);
  }
}

